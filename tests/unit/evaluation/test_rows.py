from __future__ import annotations

import numpy as np
import pytest

from evaluation.metrics import Failure
from evaluation.questions import Kind
from evaluation.rows import Basis, customization, row_values, shares_of_measured, speed_scores, timed_once
from evaluation.scores import Score


def score(
    cell: str,
    question_id: str,
    total_ms: float,
    right: bool = True,
    form: bool | None = None,
    at_once: int = 2,
) -> Score:
    return Score(
        cell=cell,
        question_id=question_id,
        kind=Kind.TAUGHT,
        is_right=right,
        failure=Failure.NONE,
        abstains=False,
        fabricates=False,
        exact_match=None,
        token_f1=None,
        citation_precision=None,
        citation_recall=None,
        num_tokens=10,
        ttft_ms=1,
        total_ms=total_ms,
        has_form=form,
        at_once=at_once,
    )


def test_least_over_own_never_says_that_what_is_missing_is_fast() -> None:
    assert speed_scores({"rag": 5.0, "tuned": 100.0, "plain": None}) == {
        "rag": 1.0,
        "tuned": 0.05,
        "plain": 0.0,
    }
    assert speed_scores({"plain": None}) == {"plain": 0.0}


def test_what_is_timed_once_is_equal_within_a_tenth() -> None:
    assert timed_once({"rag": 1.0, "tuned": 0.95, "plain": 0.5}) == {"rag": 1.0, "tuned": 1.0, "plain": 0.5}


def test_the_form_makes_up_its_weight() -> None:
    assert customization(score("a", "q", 1, form=False), 0.2) == pytest.approx(0.8)
    assert customization(score("a", "q", 1, right=False, form=True), 0.2) == pytest.approx(0.2)
    assert customization(score("a", "q", 1), 0.2) == 1.0, "no form is asked for"


def test_rows_that_were_not_measured_leave_their_weight_to_the_others() -> None:
    weights = {"a": 0.6, "b": 0.2, "c": 0.2}
    assert shares_of_measured(weights, ["a", "b"]) == pytest.approx({"a": 0.75, "b": 0.25})
    assert shares_of_measured({"a": 0.0, "b": 0.0, "c": 1.0}, ["a", "b"]) == {"a": 0.5, "b": 0.5}


def test_rows_hold_a_value_for_each_run_and_question() -> None:
    table = {
        "rag": [[score("rag", "q1", 100), score("rag", "q2", 100)]],
        "tuned": [
            [score("tuned", "q1", 200), score("tuned", "q2", 50)],
            [score("tuned", "q1", 200), score("tuned", "q2", 50)],
        ],
    }
    rows = row_values(table, Basis(fixed_s={"tuned": 0.1}, studied={"adaptability": {"rag": 1.0}}))
    assert list(rows) == ["customization", "computational_cost", "adaptability", "inference_time"]
    assert np.allclose(rows["inference_time"]["tuned"], [[0.5, 1.0]] * 2)
    assert np.allclose(rows["inference_time"]["rag"], [[1.0, 0.5]])
    # 0.05 s against 0.1 + 0.1 s, and 0.05 s against 0.025 + 0.1 s
    assert np.allclose(rows["computational_cost"]["tuned"], [[0.25, 0.4]] * 2)
    assert rows["adaptability"]["tuned"].item() == 0.0
