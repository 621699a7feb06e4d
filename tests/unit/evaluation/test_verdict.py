"""Answers placed so that the right verdict is known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest

from cluster.errors import DataError
from evaluation.config import Weights
from evaluation.metrics import Failure
from evaluation.questions import Kind
from evaluation.rows import Basis
from evaluation.scores import Score
from evaluation.statistics import Interval, Level
from evaluation.verdict import NO_DIFFERENCE, Pair, Verdict, flips, judge

CELLS = ("plain", "tuned", "rag", "tuned+rag")
LEVEL = Level(num_resamples=400)
NUM_REPEATS = 100  # to tell one false verdict in twenty from more
NUM_QUESTIONS = 80


def simulate(
    seed: int, p_right: Mapping[str, float], failures: Mapping[str, Failure] | None = None
) -> list[Score]:
    """Each cell right with its own probability on questions of differing difficulty; equal cost, noisy time."""
    rng = np.random.default_rng(seed)
    difficulty = rng.normal(0, 0.15, NUM_QUESTIONS)
    scores = []
    for index in range(NUM_QUESTIONS):
        for cell, probability in p_right.items():
            is_right = bool(rng.random() < np.clip(probability + difficulty[index], 0, 1))
            wrong = (failures or {}).get(cell, Failure.NOT_RETRIEVED)
            scores.append(
                Score(
                    cell=cell,
                    question_id=f"q{index:03}",
                    kind=Kind.TAUGHT if index % 2 else Kind.UNTAUGHT,
                    is_right=is_right,
                    failure=Failure.NONE if is_right else wrong,
                    abstains=False,
                    fabricates=not is_right,
                    exact_match=None,
                    token_f1=None,
                    citation_precision=None,
                    citation_recall=None,
                    num_tokens=100,
                    ttft_ms=10.0,
                    total_ms=float(rng.lognormal(5, 0.2)),
                )
            )
    return scores


def test_equal_cells_are_not_told_apart() -> None:
    verdicts = [judge(simulate(s, dict.fromkeys(CELLS, 0.6)), Weights(), LEVEL) for s in range(NUM_REPEATS)]
    assert sum(verdict.overall.text == NO_DIFFERENCE for verdict in verdicts) >= 95
    assert sum(all(k.text == NO_DIFFERENCE for k in verdict.kinds) for verdict in verdicts) >= 95


def test_a_cell_better_by_a_known_margin_is_found() -> None:
    p_right = {"plain": 0.2, "tuned": 0.35, "rag": 0.8, "tuned+rag": 0.35}
    winners = [judge(simulate(s, p_right), Weights(), LEVEL).overall.winner for s in range(NUM_REPEATS)]
    assert set(winners) == {"rag"}


def test_a_broken_retriever_does_not_let_rag_win_and_is_named() -> None:
    p_right = {"plain": 0.15, "tuned": 0.6, "rag": 0.05, "tuned+rag": 0.2}
    failures = {"rag": Failure.RETRIEVAL_MISS, "tuned+rag": Failure.RETRIEVAL_MISS}
    for seed in range(NUM_REPEATS):
        verdict = judge(simulate(seed, p_right, failures), Weights(), LEVEL)
        assert "rag" not in verdict.overall.leaders
        assert any("rag: of" in r and "used rightly for 0" in r for r in verdict.overall.reasons)


def test_two_cells_ahead_of_the_rest_are_named_together() -> None:
    p_right = {"plain": 0.05, "tuned": 0.05, "rag": 0.8, "tuned+rag": 0.8}
    verdict = judge(simulate(1, p_right), Weights(), LEVEL)
    assert set(verdict.overall.leaders) == {"rag", "tuned+rag"}
    assert verdict.overall.winner is None


def test_the_cheaper_one_wins_when_cells_are_equally_right_and_training_is_charged() -> None:
    scores = [
        Score(**(vars(score) | {"is_right": True, "total_ms": 100.0}))
        for score in simulate(0, {"tuned": 1, "rag": 1})
    ]
    assert judge(scores, Weights(), LEVEL).overall.text == NO_DIFFERENCE
    assert judge(scores, Weights(), LEVEL, Basis(fixed_s={"tuned": 0.3})).overall.winner == "rag"


@pytest.mark.parametrize(
    ("p_value", "text"), [(0.0345, "p = 0.035"), (0.001, "p = 0.001"), (9e-4, "p < 0.001")]
)
def test_a_p_value_is_worded_one_way(p_value: float, text: str) -> None:
    assert Pair("rag", "plain", Interval(0.5, 0.4, 0.6), p_value).p_text == text


def test_the_weight_that_flips_the_verdict_is_where_two_lines_cross() -> None:
    rows = {"customization": {"a": 1.0, "b": 0.5}, "inference_time": {"a": 0.2, "b": 0.6}}
    found = flips(rows, {"customization": 0.8, "inference_time": 0.2})
    by_row = {flip.row: flip for flip in found}
    assert by_row["customization"].at == pytest.approx(0.4 / 0.9)
    assert by_row["customization"].to == "b"
    assert by_row["inference_time"].at == pytest.approx(1 - 0.4 / 0.9)


def test_a_cell_that_is_better_in_every_row_has_no_flip() -> None:
    rows = {"customization": {"a": 1.0, "b": 0.5}, "inference_time": {"a": 0.9, "b": 0.6}}
    assert flips(rows, {"customization": 0.8, "inference_time": 0.2}) == []
    level = {"customization": {"a": 1.0, "b": 0.5}, "scalability": {"a": 1.0, "b": 1.0}}
    assert flips(level, {"customization": 0.9, "scalability": 0.1}) == []


def test_cells_that_answered_different_questions_are_not_compared() -> None:
    with pytest.raises(DataError, match="different questions"):
        judge(simulate(0, {"plain": 0.5, "rag": 0.5})[:-1], Weights(), LEVEL)
    with pytest.raises(DataError, match="no answers"):
        judge([], Weights(), LEVEL)


def test_one_cell_alone_has_nothing_to_win_against() -> None:
    verdict = judge(simulate(0, {"rag": 0.9}), Weights(), LEVEL)
    assert verdict.overall.winner is None
    assert verdict.overall.text == "rag"


def simulate_runs(seed: int, p_right: Mapping[str, Mapping[str, float]]) -> list[Score]:
    """Cell to training run to its probability of a right answer; all on the same questions."""
    scores = []
    for number, (cell, runs) in enumerate(p_right.items()):
        for run_number, (run, probability) in enumerate(runs.items()):
            own = simulate(1000 * seed + 10 * number + run_number, {cell: probability})
            scores += [replace(score, variant=run, total_ms=100.0) for score in own]
    return scores


def test_shuffled_labels_do_not_let_the_tuned_cell_win() -> None:
    p_right = {"plain": {"": 0.1}, "tuned": {"1": 0.03, "2": 0.02, "3": 0.04}, "rag": {"": 0.6}}
    verdicts = [judge(simulate_runs(s, p_right), Weights(), LEVEL) for s in range(NUM_REPEATS)]
    assert all(verdict.overall.winner == "rag" for verdict in verdicts)
    assert all("tuned" not in verdict.overall.leaders for verdict in verdicts)


def test_equal_cells_with_repeated_trainings_are_not_told_apart() -> None:
    p_right = {"tuned": {"1": 0.6, "2": 0.6, "3": 0.6}, "rag": {"": 0.6}}
    verdicts = [judge(simulate_runs(s, p_right), Weights(), LEVEL) for s in range(NUM_REPEATS)]
    assert sum(verdict.overall.text == NO_DIFFERENCE for verdict in verdicts) >= 95


def test_trainings_that_happened_to_do_well_are_not_taken_for_a_difference() -> None:
    # Each seed is right more or less often by 0.1: three of them lie on one side of the other cell one time in four.
    rng = np.random.default_rng(0)
    verdicts = []
    for seed in range(NUM_REPEATS):
        runs = {str(run): float(np.clip(rng.normal(0.6, 0.1), 0, 1)) for run in range(3)}
        verdicts.append(judge(simulate_runs(seed, {"tuned": runs, "rag": {"": 0.6}}), Weights(), LEVEL))
    assert sum(verdict.overall.text == NO_DIFFERENCE for verdict in verdicts) >= 93
    assert sum(all(kind.text == NO_DIFFERENCE for kind in verdict.kinds) for verdict in verdicts) >= 95


def test_a_leader_is_never_inside_the_interval_of_its_difference() -> None:
    p_right = {"tuned": {"1": 0.62, "2": 0.95, "3": 0.85}, "rag": {"": 0.6}}
    for seed in range(20):
        overall = judge(simulate_runs(seed, p_right), Weights(), LEVEL).overall
        assert (overall.winner == "tuned") <= (overall.pairs[0].difference.low > 0)


def test_a_cell_that_one_training_run_contradicts_is_not_the_winner() -> None:
    agreeing = {"tuned": {"1": 0.9, "2": 0.9, "3": 0.9}, "rag": {"": 0.5}}
    assert judge(simulate_runs(0, agreeing), Weights(), LEVEL).overall.winner == "tuned"
    one_failed = {"tuned": {"1": 0.9, "2": 0.9, "3": 0.1}, "rag": {"": 0.5}}
    assert judge(simulate_runs(0, one_failed), Weights(), LEVEL).overall.winner is None


def test_the_spread_between_trainings_widens_the_interval() -> None:
    alike = judge(simulate_runs(0, {"tuned": {"1": 0.6, "2": 0.6, "3": 0.6}}), Weights(), LEVEL)
    apart = judge(simulate_runs(0, {"tuned": {"1": 0.9, "2": 0.6, "3": 0.3}}), Weights(), LEVEL)

    def width(verdict: Verdict) -> float:
        value = verdict.kinds[0].cells["tuned"]
        return value.high - value.low

    assert width(apart) > 1.5 * width(alike)


def test_so_few_resamples_that_they_could_tell_nothing_are_made_more() -> None:
    p_right = {"a": {"1": 1.0, "2": 1.0}, "b": {"": 0.0}, "c": {"": 0.0}, "d": {"": 0.0}}
    verdict = judge(simulate_runs(0, p_right), Weights(), Level(num_resamples=200))
    assert verdict.overall.winner == "a"
    assert [ruling.winner for ruling in verdict.kinds] == ["a", "a"]
