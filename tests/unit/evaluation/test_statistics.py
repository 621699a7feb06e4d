from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from evaluation.statistics import (
    Level,
    enough_resamples,
    holm,
    least_p_value,
    mcnemar,
    mean_interval,
    mean_p_value,
    paired_permutation,
    run_spread,
    share_interval,
)

LEVEL = Level(num_resamples=500)


def test_mcnemar_counts_only_the_questions_on_which_two_cells_differ() -> None:
    first = [True] * 1 + [False] * 9 + [True] * 50
    second = [False] * 1 + [True] * 9 + [True] * 50
    assert mcnemar(first, second) == pytest.approx(22 / 1024)
    assert mcnemar(first, first) == 1.0


@pytest.mark.parametrize(("only_first", "only_second"), [(0, 1), (5, 5), (7, 8), (0, 40), (400, 330)])
def test_mcnemar_is_the_two_sided_binomial_test_of_a_fair_coin(only_first: int, only_second: int) -> None:
    first = [True] * only_first + [False] * only_second
    expected = stats.binomtest(only_first, len(first), 0.5).pvalue
    assert mcnemar(first, [not right for right in first]) == pytest.approx(expected)


def test_the_permutation_test_of_four_equal_differences_is_two_in_sixteen() -> None:
    assert paired_permutation([1, 2, 3, 4], [0, 1, 2, 3], Level()) == pytest.approx(0.125)
    assert paired_permutation([1, 2], [1, 2], Level()) == 1.0


def test_holm_corrects_in_the_order_of_size_and_never_falls() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]


@pytest.mark.parametrize("num_tests", [1, 6, 24, 100])
@pytest.mark.parametrize("test_level", [0.05, 0.01])
def test_enough_permutations_let_the_clearest_difference_survive_the_correction(
    num_tests: int, test_level: float
) -> None:
    num_resamples = enough_resamples(num_tests, test_level)
    p_value = paired_permutation([1.0] * 60, [0.0] * 60, Level(num_resamples=num_resamples))
    assert holm([p_value] * num_tests)[0] < test_level
    assert enough_resamples(6, 0.05) == 241


def test_the_least_p_value_is_that_of_all_differing_questions_on_one_side() -> None:
    assert least_p_value([1] * 10 + [0], [0] * 11) == pytest.approx(mcnemar([True] * 10, [False] * 10))
    assert least_p_value([1, 0], [1, 0]) == 1.0


def test_tests_that_could_tell_nothing_make_the_others_no_stricter() -> None:
    assert holm([0.01, 1, 1], [0.01, 0.5, 0.5]) == pytest.approx([0.01, 1, 1])
    # Three that can reach 0.05 / 3 and 21 that cannot even reach 0.05 alone.
    clear = 2 / 2**8
    assert holm([clear] * 3 + [1.0] * 21, [clear] * 3 + [1.0] * 21)[:3] == pytest.approx([3 * clear] * 3)
    # All within reach: Holm's own.
    assert holm([0.01, 0.04, 0.03], [0.001] * 3) == pytest.approx([0.03, 0.06, 0.06])


def test_few_questions_seldom_find_a_difference_that_is_not_there() -> None:
    rng = np.random.default_rng(7)
    found, repeats = 0, 400
    for _ in range(repeats):
        pairs = [(rng.random(12) < 0.5, rng.random(12) < 0.5) for _ in range(24)]
        p_values = [mcnemar(list(a), list(b)) for a, b in pairs]
        found += min(holm(p_values, [least_p_value(a, b) for a, b in pairs])) < 0.05
    assert found / repeats <= 0.05


def test_an_interval_is_the_same_for_the_same_seed() -> None:
    values = [0.0, 1.0] * 20
    assert mean_interval(values, LEVEL) == mean_interval(values, LEVEL)


def test_values_that_are_all_equal_have_no_spread() -> None:
    interval = mean_interval([1.0] * 5, LEVEL)
    assert (interval.low, interval.mean, interval.high) == (1.0, 1.0, 1.0)


RUNS = np.repeat([[0.5], [0.6], [0.7]], 40, axis=1)


def test_the_spread_of_runs_is_that_of_so_few() -> None:
    error, freedom = run_spread(RUNS)
    assert (error, freedom) == (pytest.approx(0.1 / 3**0.5), pytest.approx(2))
    interval = mean_interval(RUNS, LEVEL)
    assert (interval.low, interval.high) == (
        pytest.approx(0.6 - 4.303 * error, abs=1e-4),
        pytest.approx(0.6 + 4.303 * error, abs=1e-4),
    )
    assert mean_p_value(RUNS) == pytest.approx(0.0091, abs=1e-4)
    assert run_spread(RUNS.T) == (error, freedom)
    assert run_spread(RUNS[:, :1]) == (error, freedom)  # one question


def test_a_share_of_several_runs_stays_a_share() -> None:
    interval = share_interval(np.repeat([[0.2], [0.6], [1.0]], 40, axis=1), LEVEL)
    assert (interval.low, interval.high) == (0.0, 1.0)


def test_a_difference_that_every_run_shows_alike_has_no_p_value_but_0() -> None:
    assert (mean_p_value(np.ones((3, 4))), mean_p_value(np.zeros((3, 4)))) == (0.0, 1.0)


@pytest.mark.parametrize("deviation", [0.0, 0.1, 0.15])
def test_runs_that_happened_to_do_well_are_rarely_taken_for_a_difference(deviation: float) -> None:
    rng = np.random.default_rng(0)
    found = 0
    for _ in range(1000):
        right = np.clip(rng.normal(0.6, deviation, (3, 1)), 0, 1)
        found += mean_p_value((rng.random((3, 40)) < right).astype(float) - (rng.random(40) < 0.6)) < 0.05
    assert found <= 65


def test_a_handful_of_equal_answers_is_not_certain() -> None:
    interval = share_interval([1.0] * 12, LEVEL)
    assert (interval.low, interval.mean, interval.high) == (pytest.approx(0.025 ** (1 / 12)), 1.0, 1.0)
    none_right = share_interval(np.zeros((3, 12)), LEVEL)
    assert (none_right.low, none_right.high) == (0.0, pytest.approx(1 - 0.025 ** (1 / 12)))
    assert share_interval([1.0], LEVEL).low == pytest.approx(0.025)
    assert share_interval([0.0, 1.0], LEVEL) == mean_interval([0.0, 1.0], LEVEL)


def test_intervals_hold_the_true_mean_about_as_often_as_they_say() -> None:
    rng = np.random.default_rng(0)
    intervals = [
        mean_interval((rng.random(100) < 0.6).astype(np.float64), Level(num_resamples=400, seed=seed))
        for seed in range(200)
    ]
    held = sum(interval.low <= 0.6 <= interval.high for interval in intervals)
    assert 180 <= held <= 199
