"""The studies behind the six rows: their arithmetic, each worked line of a docstring repeated."""

from __future__ import annotations

import json
from concurrent.futures import Future
from itertools import pairwise
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from cluster.errors import DataError, JobFailed
from evaluation import adaptability, indexing
from evaluation.adaptability import Change, Told, Way, told
from evaluation.config import AdaptabilityConfig, CostConfig
from evaluation.cost import break_evens, cell_cost, fixed_seconds_per_query
from evaluation.data_dependency import Point, fraction, little_data_scores, part_of_files
from evaluation.indexing import adds_all, documents_digest
from evaluation.scalability import IndexSize, Load, Scalability, project_search
from retrieval.console import print_report
from retrieval.ingest import IngestReport

CHANGE = AdaptabilityConfig(
    document="leave.md",
    find="27 days",
    replace="31 days",
    question="How many days?",
    old=("27",),
    new=("31",),
)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("You get 31 days.", Told.NEW),
        ("You get 27 days.", Told.OLD),
        ("It was 27 and is 31.", Told.OTHER),
        ("I do not know.", Told.OTHER),
        ("You get 131 days.", Told.OTHER),
    ],
)
def test_an_answer_tells_the_new_fact_the_old_one_or_neither(text: str, what: Told) -> None:
    assert told(text, ["27"], ["31"]) is what


def test_a_fact_is_changed_in_rows_with_quotes_and_escaped_letters(tmp_path: Path) -> None:
    rows = tmp_path / "train.jsonl"
    rows.write_text('{"messages": "caf\\u00e9 \\"Blue\\" opens"}\r\n{"messages": "else"}\n', encoding="utf-8")
    change = CHANGE.model_copy(update={"find": 'café "Blue"', "replace": 'café "Red"'})
    lines, num_changed = adaptability._changed_rows(rows, change)
    assert [json.loads(line)["messages"] for line in lines] == ['café "Red" opens', "else"]
    assert num_changed == 1


class Clock:
    """In place of the module `time`: sleeping and answering take time, and nothing else does."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    played = Clock()
    monkeypatch.setattr(adaptability, "time", played)
    return played


def watched(answers: list[str], num_before_change: int) -> Change:
    """What is found when the change is there after so many answers."""
    given = iter(answers)
    asked: list[str] = []

    def ask(_cell: str) -> str:
        asked.append(next(given))
        return asked[-1]

    found = {"rag": Change(cell="rag", way=Way.REINGEST, seconds=None, before="27", after="27")}
    changes = adaptability._until_new(
        ask, lambda: len(asked) >= num_before_change, CHANGE, found, started=0.0
    )
    return changes["rag"]


@pytest.mark.usefixtures("clock")
def test_a_cell_is_asked_until_it_tells_the_new_fact_and_old_answers_are_counted() -> None:
    change = watched(["27.", "27.", "Who knows?", "31."], num_before_change=3)
    assert change.seconds is not None
    assert change.after == "31."
    assert change.meanwhile == {Told.OLD: 2, Told.OTHER: 1}


@pytest.mark.usefixtures("clock")
def test_a_cell_that_stays_wrong_after_the_change_never_learned_it() -> None:
    change = watched(["27."] * 9, num_before_change=2)
    assert change.seconds is None
    assert change.meanwhile[Told.OLD] <= 5


@pytest.mark.parametrize("order", [("rag", "tuned+rag"), ("tuned+rag", "rag")])
def test_a_cell_does_not_wait_for_the_one_that_is_listed_before_it(
    clock: Clock, order: tuple[str, str]
) -> None:
    answer_s, changed_at_s = 2.0, 14.0

    def ask(cell: str) -> str:
        clock.now += answer_s
        return "31" if cell == "rag" and clock.now > changed_at_s else "27"

    found = {
        cell: Change(cell=cell, way=Way.REINGEST, seconds=None, before="27", after="27") for cell in order
    }
    changes = adaptability._until_new(ask, lambda: clock.now >= changed_at_s, CHANGE, found, started=0.0)
    round_s = len(order) * answer_s + adaptability.ASK_EVERY_S
    assert changes["rag"].seconds is not None
    assert changed_at_s < changes["rag"].seconds <= changed_at_s + round_s
    assert changes["tuned+rag"].seconds is None


def test_a_fact_that_does_not_stand_in_the_document_is_refused(tmp_path: Path) -> None:
    (tmp_path / "leave.md").write_text("Everybody gets 28 days.")
    with pytest.raises(DataError, match="does not hold '27 days'"):
        adaptability._edit(tmp_path / "leave.md", CHANGE)


def test_an_ingestion_that_fails_is_not_taken_for_a_change(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    failed: Future[float] = Future()
    failed.set_exception(DataError("broken"))
    monkeypatch.setattr(adaptability, "ingest", lambda *_: (_ for _ in ()).throw(DataError("broken")))
    config = adaptability.CompareConfig(
        questions=tmp_path,
        cells={"plain": "m"},
        documents=tmp_path / "docs",
        collection="c",
        adaptability=CHANGE,
        output=tmp_path / "out",
    )
    with pytest.raises(DataError, match="broken"):
        adaptability._watch(config, CHANGE, {"plain": "27"}, {"plain": "m"}, tmp_path, "c")


def test_money_and_energy_are_seconds_times_prices() -> None:
    prices = CostConfig(price_per_hour=0.5, watts=60, queries=1000)
    cost = cell_cost("tuned", prices, training_s=3600, ingest_s=0, query_s=1.8, tokens_per_query=90)
    assert (cost.fixed_money, cost.fixed_wh) == (0.5, 60)
    assert cost.query_money == pytest.approx(0.00025)
    assert cost.query_wh == pytest.approx(0.03)
    assert cost.money_per_10k_tokens == pytest.approx(0.0278, abs=1e-4)
    assert cost.money(1000) == pytest.approx(0.75)
    assert fixed_seconds_per_query([cost], prices) == {"tuned": 3.6}


def test_two_cells_break_even_where_what_was_spent_first_is_saved() -> None:
    prices = CostConfig()
    tuned = cell_cost("tuned", prices, 100, 0, 1, 50)
    rag = cell_cost("rag", prices, 0, 0, 3, 50)
    (found,) = break_evens([tuned, rag])
    assert (found.dearer_at_first, found.other, found.num_queries) == ("tuned", "rag", 50)
    (never,) = break_evens([tuned, cell_cost("plain", prices, 0, 0, 0.5, 50)])
    assert never.num_queries is None
    (level,) = break_evens([tuned, cell_cost("plain", prices, 0, 0, 1, 50)])
    assert level.num_queries is None, "nothing is saved"
    assert break_evens([rag, cell_cost("plain", prices, 0, 0, 1, 50)]) == [], "neither costs more at first"


def test_little_data_counts_the_mean_over_all_amounts() -> None:
    points = [
        Point("tuned", 0.25, 0.2, 10),
        Point("tuned", 0.5, 0.4, 10),
        Point("tuned", 1.0, 0.6, 10),
        Point("plain", 1.0, 0.1, 10),
    ]
    assert little_data_scores(points, ["tuned", "plain"]) == pytest.approx({"tuned": 0.4, "plain": 0.1})


def test_a_larger_part_of_the_documents_holds_the_smaller_one() -> None:
    names = [f"{number}.md" for number in range(12)]
    parts = [part_of_files(names, share) for share in (0.125, 0.25, 0.5, 1)]
    assert [len(part) for part in parts] == [2, 3, 6, 12]
    for smaller, larger in pairwise(parts):
        assert set(smaller) < set(larger)


def test_two_amounts_of_data_never_have_one_name() -> None:
    assert [fraction(share) for share in (0.125, 0.25, 0.333, 0.334, 1.0)] == [
        "1/8",
        "1/4",
        "0.333",
        "0.334",
        "1",
    ]


def test_a_collection_that_cannot_be_cleared_away_costs_no_measurement(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    def retrieval(verb: str, *_: str) -> str:
        if verb == "delete":
            raise JobFailed("the head is gone")
        return "1 documents added, 0 updated, 0 unchanged"

    monkeypatch.setattr(indexing, "_retrieval", retrieval)
    with indexing.study_collection("eval-1", "changed", tmp_path) as collection:
        assert collection == "eval-1-changed"
    assert "eval-1-changed is left behind: the head is gone" in caplog.text


def test_scalability_scores_are_shares_of_the_best_cell_under_the_highest_load() -> None:
    def load(cell: str, at_once: int, answers_per_s: float) -> Load:
        return Load(cell=cell, at_once=at_once, answers_per_s=answers_per_s, tokens_per_s=1, p50_ms=1)

    loads = (load("tuned", 8, 4.0), load("tuned", 1, 1.0), load("rag", 1, 3.0), load("rag", 8, 2.0))
    assert Scalability(loads=loads).scores == {"tuned": 1.0, "rag": 0.5}


def test_search_time_is_projected_with_the_logarithm_of_the_size() -> None:
    sizes = [
        IndexSize(num_chunks=100, search_p50_ms=1.0),
        IndexSize(num_chunks=10_000, search_p50_ms=2.0),
    ]
    assert project_search(sizes, [100_000]) == pytest.approx({100_000: 2.5})
    assert project_search(sizes[:1], [100_000]) == {}
    faster = [IndexSize(num_chunks=100, search_p50_ms=2), IndexSize(num_chunks=10_000, search_p50_ms=1)]
    assert project_search(faster, [100_000]) == pytest.approx({100_000: 1.5})


@pytest.mark.parametrize(
    ("report", "is_whole"),
    [
        (IngestReport(num_added=12), True),
        (IngestReport(num_added=12, num_unchanged=1), False),
        (IngestReport(num_added=1, num_updated=1), False),
        (IngestReport(num_unchanged=12), False),
    ],
)
def test_only_an_ingestion_of_every_document_is_timed_as_one(
    report: IngestReport, is_whole: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    print_report("handbook", report)
    assert adds_all(capsys.readouterr().out) is is_whole


def test_a_command_that_fails_is_told_by_its_own_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    said = "12:00:00 INFO retrieval: converting the model\nerror: no file at docs; give a folder\n"
    ended = CompletedProcess([], 2, stdout="", stderr=said)
    monkeypatch.setattr(indexing, "run_module", lambda *_: ended)
    with pytest.raises(JobFailed) as failed:
        indexing.passages_of(Path("docs"))
    assert failed.value.message == "python -m retrieval chunks failed: no file at docs; give a folder"


def test_the_digest_of_documents_changes_with_their_names_and_content(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("one")
    digests = [documents_digest(None), documents_digest(tmp_path)]
    (tmp_path / "a.md").write_text("two")
    digests.append(documents_digest(tmp_path))
    (tmp_path / "a.md").rename(tmp_path / "b.md")
    digests.append(documents_digest(tmp_path))
    assert len(set(digests)) == len(digests)
    assert documents_digest(tmp_path) == digests[-1]
