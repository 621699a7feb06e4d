from __future__ import annotations

from pathlib import Path

import pytest

from cluster.errors import ConfigError, Unprocessable
from evaluation.answers import Answer, Hit
from evaluation.policy import best_trained, calibrated_threshold, chosen_policy, policies
from evaluation.questions import Kind, Question
from evaluation.tuning import TrainedModel

QUESTIONS = [
    Question(id="t", question="Days?", kind=Kind.TAUGHT, answer="27", document="leave.md"),
    Question(id="s", question="Hello!", kind=Kind.SMALLTALK),
]
CELLS = {"tuned": "{tuned}", "rag": "m+rag", "auto": "auto"}


def run(seed: int, loss: float | None) -> TrainedModel:
    return TrainedModel(
        variant=f"seed {seed}",
        seed=seed,
        model=f"ft:{seed}",
        seconds=1,
        trained_tokens=1,
        validation_loss=loss,
    )


def answer(cell: str, question: str, route: str, score: float | None = None, variant: str = "") -> Answer:
    return Answer(
        cell=cell,
        question_id=question,
        variant=variant,
        request="",
        model="m",
        text="27",
        route=route,
        hits=(Hit(filename="leave.md", score=score),) if score is not None else (),
        ttft_ms=1,
        total_ms=1,
    )


ANSWERS = [
    answer("tuned", "t", "tuned", variant="seed 1"),
    answer("rag", "t", "rag", 0.6),
    answer("rag", "s", "rag", 0.3),
    answer("auto", "t", "plain"),
]


def test_the_threshold_stands_in_the_middle_of_the_gap() -> None:
    assert calibrated_threshold([0.5, 0.6, 0.7], [0.1, 0.3]) == 0.4


def test_the_threshold_of_overlapping_scores_loses_least() -> None:
    # 0.35 finds 3 of 4 and leaves alone 3 of 3; everything lower lets in the small talk at 0.3
    assert calibrated_threshold([0.2, 0.4, 0.6, 0.7], [0.1, 0.15, 0.3]) == 0.35


def test_without_small_talk_there_is_nothing_to_calibrate_with() -> None:
    assert calibrated_threshold([0.5], []) is None
    assert calibrated_threshold([0.5], [0.5]) is None


def test_the_run_with_the_least_validation_loss_is_promoted_not_the_best_on_the_test() -> None:
    best = best_trained([run(1, 0.9), run(2, 0.4), run(3, None)])
    assert best is not None
    assert best.seed == 2
    assert best_trained([]) is None


def test_each_cell_has_the_policy_that_puts_it_behind_auto() -> None:
    found = policies(CELLS, ANSWERS, QUESTIONS, [run(1, 0.5), run(2, 0.4)], "eval-1234")
    assert set(found) == {"tuned", "rag"}, "auto cannot stand behind itself"
    assert (found["rag"].grounded_route, found["rag"].score_threshold) == ("rag", 0.45)
    assert (found["tuned"].grounded_route, found["tuned"].tuned_model) == ("tuned", "ft:2")


def test_what_finds_no_passage_that_is_told_is_not_sent_to_the_documents() -> None:
    # The small talk found a passage of 0.25, say, which is too weak for the service to tell.
    more = Question(id="u", question="Weeks?", kind=Kind.UNTAUGHT, answer="4", document="leave.md")
    told = [answer("rag", "t", "rag", 0.6), answer("rag", "u", "rag", 0.36), answer("rag", "s", "rag")]
    found = policies({"rag": "m+rag"}, told, [*QUESTIONS, more], [], "eval-1234")
    assert found["rag"].score_threshold == 0.36


def test_a_verdict_without_a_winner_is_not_promoted_by_itself(tmp_path: Path) -> None:
    offered = {
        cell: p.model_dump(mode="json") for cell, p in policies(CELLS, ANSWERS, QUESTIONS, [], "r").items()
    }
    results = {"policies": offered, "winner": None, "conclusion": {"all questions": "no difference"}}
    with pytest.raises(Unprocessable, match="--cell"):
        chosen_policy(results, None)
    assert chosen_policy(results, "rag")[1].grounded_route == "rag"
    assert chosen_policy(results | {"winner": "tuned"}, None)[0] == "tuned"
    with pytest.raises(ConfigError, match="auto"):
        chosen_policy(results, "auto")
