from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cluster.errors import Conflict
from evaluation.answers import Answer, Hit
from evaluation.charts import cost_chart
from evaluation.config import CompareConfig, CostConfig
from evaluation.cost import cell_cost
from evaluation.figures import cell_figures
from evaluation.judging import Judged
from evaluation.questions import Kind, Question
from evaluation.report import percent, points, render
from evaluation.results import Measured, Results, collect
from evaluation.scores import score_all
from evaluation.statistics import Interval, Level
from evaluation.table import six_rows
from evaluation.verdict import by_cell, judge_kinds

HOSTILE = "<script>alert(1)</script>"
QUESTIONS = [
    Question(
        id="t", question=f"How many days? {HOSTILE}", kind=Kind.TAUGHT, answer="27", document="leave.md"
    ),
    Question(id="u", question="And weeks?", kind=Kind.UNANSWERABLE),
    Question(id="s", question="Good morning!", kind=Kind.SMALLTALK),
]


def results(
    tmp_path: Path,
    served: tuple[str, str, str] = ("m", "m", "m"),
    judged: Judged | None = None,
    **changes: Any,
) -> Results:
    config = CompareConfig(
        name=f"Test {HOSTILE}",
        questions=tmp_path,
        cells={"plain": "m", "rag": "m+rag"},
        output=tmp_path,
        num_resamples=200,
        **changes,
    )
    answers = [
        Answer(
            cell=cell,
            question_id=question.id,
            request="0",
            model=model,
            text=f"It is 27. {HOSTILE}",
            cited=(f"{HOSTILE}.md",) if cell == "rag" else (),
            hits=(Hit(filename="leave.md", score=0.5),) if cell == "rag" else (),
            stage_ms={"search": 2.0} if cell == "rag" else {},
            ttft_ms=10,
            total_ms=20,
            prompt_tokens=30,
            completion_tokens=5,
        )
        for question, model in zip(QUESTIONS, served, strict=True)
        for cell in config.cells
    ]
    return collect(config, Measured(QUESTIONS, answers, judged=judged), datetime(2026, 1, 2, tzinfo=UTC))


class Page(HTMLParser):
    """What a browser would see: tags, attributes, and the text between them."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.urls: list[str] = []
        self.words: list[str] = []
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name == "id" and value:
                self.ids.append(value)
            if name in ("src", "href", "xlink:href", "action") and value:
                self.urls.append(value)

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def test_the_page_shows_hostile_text_as_text_and_fetches_nothing(tmp_path: Path) -> None:
    page = Page(render(results(tmp_path)))
    assert "script" not in page.tags
    assert any(HOSTILE in words for words in page.words)
    assert all(url.startswith("#") for url in page.urls)
    assert page.tags.count("svg") == 2


def test_every_reference_in_the_charts_has_its_target_and_no_id_is_used_twice(tmp_path: Path) -> None:
    page = Page(render(results(tmp_path)))
    assert {url.removeprefix("#") for url in page.urls} <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))


def test_every_question_can_be_opened_and_what_was_not_measured_is_said(tmp_path: Path) -> None:
    shown = results(tmp_path)
    page = Page(render(shown))
    assert page.tags.count("details") == len(QUESTIONS) + 1, "and the pairs of cells"
    assert len(shown.not_measured) > 5
    for sentence in shown.not_measured:
        assert sentence in " ".join(page.words)


def test_the_table_names_no_amounts_of_data_that_were_not_asked_for(tmp_path: Path) -> None:
    meanings = {row.name: row.meaning for row in six_rows(results(tmp_path))}
    assert meanings["data dependency"] == "right answers, mean over all amounts of the data"


def test_answers_are_put_to_their_questions_in_one_pass(tmp_path: Path) -> None:
    made = results(tmp_path)
    num_passes = Counter[int]()

    class Counted(list[Answer]):
        def __iter__(self) -> Iterator[Answer]:
            num_passes[num_questions] += 1
            return super().__iter__()

    for num_questions in (3, 30):
        questions = [
            q.model_copy(update={"id": f"{q.id}{i}"}) for i in range(num_questions // 3) for q in QUESTIONS
        ]
        answers = [
            answer.model_copy(update={"question_id": f"{answer.question_id}{i}"})
            for i in range(num_questions // 3)
            for answer in made.measured.answers
        ]
        again = collect(made.config, Measured(questions, Counted(answers)), made.made_at)
        assert [set(line.answers) for line in again.lines] == [{"plain", "rag"}] * num_questions
    assert num_passes[3] == num_passes[30]


def test_the_same_results_make_the_same_page(tmp_path: Path) -> None:
    assert render(results(tmp_path)) == render(results(tmp_path))


def test_measures_apply_to_the_questions_they_are_defined_for(tmp_path: Path) -> None:
    plain, rag = results(tmp_path).cells
    assert plain.measures["citation recall"] is None
    recall, contained = rag.measures["citation recall"], rag.measures["answer contained"]
    assert recall is not None
    assert recall.mean == 0.0, "the cited file is not the question's document"
    assert contained is not None
    assert contained.mean == 1.0
    right, fabricates = plain.measures["right"], plain.measures["fabricates"]
    assert right is not None
    assert right.mean == pytest.approx(2 / 3), "the unanswerable question was answered"
    assert fabricates is not None
    assert fabricates.mean == 0.5


def test_the_figures_are_plain_json(tmp_path: Path) -> None:
    figures = json.loads(json.dumps(results(tmp_path).as_json()))
    assert figures["conclusion"]["all questions"] == "no difference"
    assert len(figures["scores"]) == 6


def test_the_method_says_how_the_answers_were_judged(tmp_path: Path) -> None:
    plain = render(results(tmp_path))
    assert "No model judged any answer." in plain
    assert "or a number that differs" not in plain
    judge = Judged(model="big", num_judged=3, num_unreadable=0, agreement=1.0, kappa=1.0, right={})
    other = render(results(tmp_path, judged=judge, numeric_tolerance=0.02))
    assert "No model judged any answer." not in other
    assert "What the judge (big) says" in other
    assert "or a number that differs from it by at most 2 %" in other


def test_the_interval_of_a_measure_holds_the_spread_between_training_runs() -> None:
    rng = np.random.default_rng(1)
    questions = [Question(id=str(n), question="?", kind=Kind.TAUGHT, answer="27") for n in range(100)]
    answers = [
        Answer(
            cell="tuned",
            question_id=question.id,
            variant=f"seed {p_right}",
            request="0",
            model=f"m{p_right}",
            text="27" if rng.random() < p_right else "28",
            ttft_ms=1,
            total_ms=2,
        )
        for p_right in (0.4, 0.6, 0.8)
        for question in questions
    ]
    scores = score_all(answers, questions)
    level = Level()
    figures = cell_figures("tuned", "{tuned}", answers, scores, level)
    [ruling] = judge_kinds(by_cell(scores), level)
    right, of_kind = figures.measures["right"], ruling.cells["tuned"]
    assert right is not None
    assert right.high - right.low > 0.25, "the runs alone differ by 0.4"
    assert (right.low, right.high) == pytest.approx((of_kind.low, of_kind.high), abs=0.02)


def test_a_cell_answered_by_two_models_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Conflict, match="m and n"):
        results(tmp_path, ("m", "m", "n"))


def test_a_router_answers_each_route_by_a_model_of_its_own() -> None:
    def answer(question: Question, model: str, route: str) -> Answer:
        asked = {"cell": "auto", "question_id": question.id, "request": "0", "text": "27"}
        return Answer(**asked, model=model, route=route, ttft_ms=1, total_ms=2)

    answers = [answer(question, "ft:m", "tuned") for question in QUESTIONS[:2]]
    answers.append(answer(QUESTIONS[2], "m", "plain"))
    figures = cell_figures("auto", "auto", answers, score_all(answers, QUESTIONS), Level())
    assert figures.served_models == ("ft:m", "m")
    assert figures.right_by_run == {"": pytest.approx(2 / 3)}
    moved = [answer(QUESTIONS[0], "ft:m", "tuned"), answer(QUESTIONS[1], "ft:n", "tuned")]
    with pytest.raises(Conflict, match="ft:m and ft:n"):
        cell_figures("auto", "auto", moved, score_all(moved, QUESTIONS), Level())


def test_a_difference_is_shown_with_its_sign_and_nothing_as_nothing() -> None:
    assert points(Interval(0.12, -0.03, 0.27)) == "+12 (−3 to +27)"
    assert points(Interval(0.0, -0.001, 0.0)) == "0 (0 to 0)"


def test_every_pair_stands_in_the_page_with_its_difference_and_p_value(tmp_path: Path) -> None:
    shown = results(tmp_path)
    words = Page(render(shown)).words
    assert all(pair.p_text in words for pair in shown.verdict.overall.pairs)
    assert words.count("plain less rag") == 1 + len({question.kind for question in QUESTIONS})


def test_answers_that_were_cut_off_are_told(tmp_path: Path) -> None:
    shown = results(tmp_path)
    cut = [
        answer.model_copy(update={"finish_reason": "length" if answer.question_id == "t" else "stop"})
        for answer in shown.measured.answers
    ]
    measured = replace(shown.measured, answers=cut)
    again = collect(shown.config, measured, shown.made_at)
    assert again.cells[0].cut_off == pytest.approx(1 / 3)
    assert "cut off at 48 tokens" in render(again)


@pytest.mark.parametrize("currency", ["US$", "$$", "$x^2$"])
def test_any_currency_can_be_drawn(currency: str) -> None:
    cost = cell_cost(
        "tuned", CostConfig(price_per_hour=0), training_s=10, ingest_s=0, query_s=1, tokens_per_query=9
    )
    assert "<svg" in cost_chart([cost], 1000, currency)


def test_a_measure_that_does_not_apply_is_a_dash() -> None:
    assert percent(None) == "–"
    assert percent(Interval(0.5, 0.25, 0.75)) == "50 % (25 to 75)"
