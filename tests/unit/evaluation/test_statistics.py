from __future__ import annotations

import numpy as np
import pytest

from evaluation.statistics import holm, mcnemar, mean_interval, paired_permutation


def test_mcnemar_counts_only_the_questions_on_which_two_cells_differ() -> None:
    first = [True] * 1 + [False] * 9 + [True] * 50
    second = [False] * 1 + [True] * 9 + [True] * 50
    assert mcnemar(first, second) == pytest.approx(22 / 1024)
    assert mcnemar(first, first) == 1.0


def test_the_permutation_test_of_four_equal_differences_is_two_in_sixteen() -> None:
    assert paired_permutation([1, 2, 3, 4], [0, 1, 2, 3], 5000, 0) == pytest.approx(0.125)
    assert paired_permutation([1, 2], [1, 2], 5000, 0) == 1.0


def test_holm_corrects_in_the_order_of_size_and_never_falls() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]


def test_an_interval_is_the_same_for_the_same_seed() -> None:
    values = [0.0, 1.0] * 20
    assert mean_interval(values, 0.95, 500, 3) == mean_interval(values, 0.95, 500, 3)


def test_values_that_are_all_equal_have_no_spread() -> None:
    interval = mean_interval([1.0] * 5, 0.95, 500, 0)
    assert (interval.low, interval.mean, interval.high) == (1.0, 1.0, 1.0)


def test_intervals_hold_the_true_mean_about_as_often_as_they_say() -> None:
    rng = np.random.default_rng(0)
    intervals = [
        mean_interval((rng.random(100) < 0.6).astype(np.float64), 0.95, 400, seed) for seed in range(200)
    ]
    held = sum(interval.low <= 0.6 <= interval.high for interval in intervals)
    assert 180 <= held <= 199
