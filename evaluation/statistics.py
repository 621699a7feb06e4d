"""How sure a difference is: bootstrap intervals, paired tests, and Holm's correction over all pairs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtr, stdtr, stdtrit

Values = NDArray[np.float64]

BATCH = 500  # resamples drawn at a time: 500 x 10,000 questions are 40 MB


@dataclass(frozen=True)
class Level:
    """How sure a figure or a verdict must be, and the samples that tell it."""

    confidence: float = 0.95
    num_resamples: int = 5000
    seed: int = 0


@dataclass(frozen=True)
class Interval:
    """A mean and the interval that holds it with the given confidence."""

    mean: float
    low: float
    high: float


def mean_interval(values: Sequence[float] | Values, level: Level) -> Interval:
    """Of the mean over questions the percentile bootstrap (Efron & Tibshirani 1993, chapter 13).

    values: [num_questions], or [num_runs, num_questions] for several training runs on the same questions; then
    Student's interval of `run_spread`, since three runs drawn anew show too little of how far runs lie apart. All
    values equal -> an interval of width 0, which says that the sample has no spread, not that the mean is certain.
    """
    sample = np.atleast_2d(np.asarray(values, dtype=np.float64))
    mean = float(sample.mean())
    if np.all(sample == sample[0, 0]):
        return Interval(mean, mean, mean)
    # Not scipy's bootstrap, which spends milliseconds around each call; a report takes hundreds of intervals.
    tail = (1 - level.confidence) / 2
    if len(sample) > 1:
        error, freedom = run_spread(sample)
        width = -float(stdtrit(freedom, tail)) * error
        return Interval(mean, mean - width, mean + width)
    rng = np.random.default_rng(level.seed)
    sizes = [min(BATCH, level.num_resamples - start) for start in range(0, level.num_resamples, BATCH)]
    drawn = [rng.integers(sample.size, size=(size, sample.size)) for size in sizes]
    means = np.concatenate([sample[0][indices].mean(axis=1) for indices in drawn])
    low, high = np.quantile(means, [tail, 1 - tail])
    return Interval(mean, float(low), float(high))


def share_interval(values: Sequence[float] | Values, level: Level) -> Interval:
    """As `mean_interval`, for values from 0 to 1. Where all are 0, or all 1, the exact interval of so many questions.

    Drawing anew from equal values would call a handful of them certain (Clopper & Pearson 1934 instead).
    12 of 12 right at 0.95: from 0.025 ** (1/12) = 0.735 to 1
    """
    sample = np.atleast_2d(np.asarray(values, dtype=np.float64))
    if not (np.all(sample == 0) or np.all(sample == 1)):
        found = mean_interval(sample, level)
        return Interval(found.mean, max(0.0, found.low), min(1.0, found.high))
    mean, num_questions = float(sample[0, 0]), sample.shape[1]
    width = 1 - ((1 - level.confidence) / 2) ** (1 / num_questions)
    return Interval(mean, max(0.0, mean - width), min(1.0, mean + width))


def run_spread(sample: Values) -> tuple[float, float]:
    """Standard error of a mean over training runs and questions, both taken as drawn, and its degrees of freedom.

    sample: [num_runs, num_questions], two runs or more. The variance of the mean over runs and that of the mean over
    questions add up (min F' of Clark 1973), with the degrees of freedom of Welch and Satterthwaite (1946). What a run
    does on one question alone is in both, so that the error is rather too large.
    Runs of 0.5, 0.6 and 0.7 on every question: 0.1 / sqrt(3) = 0.0577 with 2 degrees of freedom
    """
    parts = [(_variance_of_mean(sample.mean(axis=axis)), sample.shape[1 - axis] - 1) for axis in (0, 1)]
    variance = sum(part for part, _ in parts)
    if variance == 0:
        return 0.0, 1.0
    freedom = variance**2 / sum(part**2 / own for part, own in parts if own)
    return math.sqrt(variance), freedom


def _variance_of_mean(values: Values) -> float:
    return float(values.var(ddof=1) / len(values)) if len(values) > 1 else 0.0


def mean_p_value(values: Values) -> float:
    """p-value of a mean of 0 over training runs and questions, both taken as drawn: Student's test of `run_spread`.

    values: [num_runs, num_questions], two runs or more. 0 where all are equal and not 0.
    Differences of 0.5, 0.6 and 0.7 on every question: t = 0.6 / 0.0577 = 10.4 with 2 degrees of freedom -> 0.0091
    """
    error, freedom = run_spread(values)
    mean = abs(float(values.mean()))
    if error == 0:
        return float(mean == 0)
    return float(2 * stdtr(freedom, -mean / error))


def mcnemar(first: Sequence[bool], second: Sequence[bool]) -> float:
    """p-value of McNemar's exact test (McNemar 1947): are both right equally often on the same questions?

    Only questions count on which one is right and the other wrong; under "no difference" each falls to
    either side like a coin. 1 against 9 such questions: 2 * (C(10,0) + C(10,1)) / 2^10 = 22/1024 = 0.0215
    """
    only_first = sum(a and not b for a, b in zip(first, second, strict=True))
    only_second = sum(b and not a for a, b in zip(first, second, strict=True))
    # Not scipy's binomtest, which searches for the other tail: of a fair coin it is as likely as this one.
    return float(min(1.0, 2 * bdtr(min(only_first, only_second), only_first + only_second, 0.5)))


def paired_permutation(
    first: Sequence[float] | Values, second: Sequence[float] | Values, level: Level
) -> float:
    """p-value of the paired permutation test of equal means (Fisher 1935), for values that are no yes or no.

    Under "no difference" each question's pair may be swapped. Both of shape [num_questions].
    Four questions, all better by 1: 2 of 16 swaps are as far apart -> 0.125
    """
    differences = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
    # Swapping a pair of equals changes nothing.
    differences = differences[differences != 0]
    if len(differences) < 2:
        return 1.0  # of one pair, both swaps are equally far apart
    from scipy import stats  # takes a second, which asking need not wait for

    return float(
        stats.permutation_test(
            (differences,),
            np.mean,
            permutation_type="samples",
            n_resamples=level.num_resamples,
            batch=BATCH,
            vectorized=True,
            rng=np.random.default_rng(level.seed),
        ).pvalue
    )


def enough_resamples(num_tests: int, test_level: float) -> int:
    """So many permutations that the clearest of some tests stays below the test level after Holm's correction.

    The least p-value that n permutations can give is 2 / (n + 1). 6 tests at 0.05: 6 * 2 / 242 = 0.0496 -> 241
    """
    return math.floor(2 * num_tests / test_level) + 1


def least_p_value(first: Sequence[float] | Values, second: Sequence[float] | Values) -> float:
    """The least p-value that a paired test of two sides could give, however the differing questions fell.

    10 questions on which the two differ: all to one side, or all to the other, is 2 of 2^10 -> 0.00195
    """
    num_differing = int(np.count_nonzero(np.asarray(first) != np.asarray(second)))
    return float(min(1.0, 2.0 ** (1 - num_differing)))


def holm(
    p_values: Sequence[float], least: Sequence[float] | None = None, test_level: float = 0.05
) -> list[float]:
    """p-values corrected for having looked at all of them (Holm 1979), in the same order.

    The chance that any true "no difference" is rejected stays below the test level.
    [0.01, 0.04, 0.03] -> [0.03, 0.06, 0.06]

    `least` are the least p-values that the tests could give. A test that could reject nothing even so does
    not make the others stricter (Tarone 1990; stepwise, Hommel and Krummenauer 1998): a k is sought so that
    no more than k tests could come below test_level / k. Without it every test counts.
    [0.01, 1, 1] with least [0.01, 0.5, 0.5] -> [0.01, 1, 1]
    """
    reach = [0.0] * len(p_values) if least is None else least
    corrected = [1.0] * len(p_values)
    remaining, largest = set(range(len(p_values))), 0.0
    while remaining:
        k = next(k for k in range(1, len(p_values) + 1) if _num_within(reach, remaining, test_level / k) <= k)
        able = [index for index in remaining if reach[index] <= test_level / k]
        if not able:
            break
        first = min(able, key=lambda index: (p_values[index], index))
        largest = max(largest, min(1.0, k * p_values[first]))
        corrected[first] = largest
        remaining.remove(first)
    return corrected


def _num_within(reach: Sequence[float], indices: Iterable[int], bound: float) -> int:
    return sum(reach[index] <= bound for index in indices)
