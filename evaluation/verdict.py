"""From scores to a verdict: which cell for which kind of question, how sure, and what would change it. Pure.

A cell leads when no other cell is better by more than noise. One leader among several cells is a winner;
several leaders are not told apart; when all lead there is no difference. A cell is ahead only if the test, the
interval of the difference and, where training was repeated, every run say so.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

from cluster.errors import DataError
from evaluation.config import Weights
from evaluation.metrics import Failure
from evaluation.questions import Kind
from evaluation.rows import ROW_NAMES, Basis, Table, row_values, shares_of_measured
from evaluation.scores import Score
from evaluation.statistics import (
    Interval,
    Level,
    Values,
    enough_resamples,
    holm,
    least_p_value,
    mcnemar,
    mean_interval,
    mean_p_value,
    paired_permutation,
    share_interval,
)

NO_DIFFERENCE = "no difference"


@dataclass(frozen=True)
class Pair:
    """Two cells on the same questions. `difference` is first minus second; `p_value` is corrected."""

    first: str
    second: str
    difference: Interval
    p_value: float

    @property
    def p_text(self) -> str:
        """As reasons and report show it: `p = 0.034`, or `p < 0.001`."""
        return "p < 0.001" if self.p_value < 0.001 else f"p = {self.p_value:.3f}"


@dataclass(frozen=True)
class Ruling:
    """The verdict on one kind of question, or on all of them."""

    about: str
    num_questions: int
    cells: dict[str, Interval]
    pairs: tuple[Pair, ...]
    leaders: tuple[str, ...]  # best first
    reasons: tuple[str, ...]

    @property
    def winner(self) -> str | None:
        return self.leaders[0] if len(self.leaders) == 1 and len(self.cells) > 1 else None

    @property
    def text(self) -> str:
        """`rag`, `rag or tuned+rag`, or `no difference`."""
        if len(self.cells) > 1 and len(self.leaders) == len(self.cells):
            return NO_DIFFERENCE
        return " or ".join(self.leaders)


@dataclass(frozen=True)
class Flip:
    """The weight of one row at which another cell draws level, the other rows keeping their proportions."""

    row: str
    weight: float
    at: float
    to: str


@dataclass(frozen=True)
class Verdict:
    overall: Ruling
    kinds: tuple[Ruling, ...]
    weights: dict[str, float]
    rows: dict[str, dict[str, float]]  # row -> cell -> mean score, 0 to 1
    flips: tuple[Flip, ...]


def judge(scores: Sequence[Score], weights: Weights, level: Level, basis: Basis | None = None) -> Verdict:
    """The verdict. Raises DataError unless every run of every cell answered the same questions."""
    basis = basis or Basis()
    table = by_cell(scores)
    rows = row_values(table, basis)
    shares = shares_of_measured(weights.shares, list(rows))
    utility = {cell: _weighted_sum(shares, rows, cell) for cell in table}
    overall = _rule("all questions", utility, _permutation_pairs(utility, level), level)
    means = {
        row: {cell: float(values.mean()) for cell, values in cells.items()} for row, cells in rows.items()
    }
    reasons = (_pair_reason(overall), *_row_reasons(means), *failure_reasons(table))
    return Verdict(
        overall=replace(overall, reasons=reasons),
        kinds=judge_kinds(table, level),
        weights=shares,
        rows=means,
        flips=tuple(flips(means, shares)),
    )


def _weighted_sum(shares: Mapping[str, float], rows: Mapping[str, Mapping[str, Values]], cell: str) -> Values:
    return np.asarray(sum((share * rows[row][cell] for row, share in shares.items()), np.zeros((1, 1))))


def flips(rows: Mapping[str, Mapping[str, float]], shares: Mapping[str, float]) -> list[Flip]:
    """For each row, the nearest weight at which the best cell is overtaken; none where no weight does it.

    With weight w on a row and the others in proportion, a cell's utility is w * row + (1 - w) * rest, a
    line in w; two lines cross at w = (rest_b - rest_a) / ((row_a - rest_a) - (row_b - rest_b)).
    Row scores a 1.0, b 0.5 and rest a 0.2, b 0.6: w = 0.4 / (0.8 + 0.1) = 0.444
    """
    cells = list(rows["customization"])
    best = max(cells, key=lambda cell: sum(shares[row] * rows[row][cell] for row in shares))
    found = []
    for row, weight in shares.items():
        if weight >= 1:
            continue  # the other rows have no proportions to keep
        rest = {
            cell: sum(shares[other] * rows[other][cell] for other in shares if other != row) / (1 - weight)
            for cell in cells
        }
        crossings = []
        for other in cells:
            slope = (rows[row][best] - rest[best]) - (rows[row][other] - rest[other])
            if other == best or abs(slope) < 1e-12:
                continue
            at = (rest[other] - rest[best]) / slope
            # At 1 cells of equal scores in this row are level, at 0 those of equal rests: beyond either lies no weight
            # at which one is overtaken.
            if 1e-9 < at < 1 - 1e-9:
                crossings.append(Flip(row, weight, at, other))
        if crossings:
            found.append(min(crossings, key=lambda flip: abs(flip.at - flip.weight)))
    return found


def failure_reasons(table: Table) -> list[str]:
    """For each cell that retrieves, whose fault its wrong answers are."""
    reasons = []
    for cell, runs in table.items():
        counts = Counter(score.failure for run in runs for score in run)
        misses, errors = counts[Failure.RETRIEVAL_MISS], counts[Failure.GENERATION_ERROR]
        if misses + errors:
            reasons.append(
                f"{cell}: of {misses + errors} wrong answers to answerable questions, the right document was "
                f"not retrieved for {misses} and retrieved but not used rightly for {errors}."
            )
    return reasons


def by_cell(scores: Sequence[Score]) -> Table:
    """Cell to its runs, each a list of scores, all in one order of questions."""
    table: dict[str, dict[str, list[Score]]] = {}
    for score in scores:
        table.setdefault(score.cell, {}).setdefault(score.variant, []).append(score)
    if not table:
        raise DataError("there are no answers to judge")
    asked: dict[tuple[str, ...], str] = {}
    for cell, runs in table.items():
        for own in runs.values():
            own.sort(key=lambda score: score.question_id)
            asked.setdefault(tuple(score.question_id for score in own), cell)
    if len(asked) > 1:
        first, other, *_ = asked.values()
        raise DataError(f"cells {first} and {other} answered different questions; finish the run first")
    return {cell: list(runs.values()) for cell, runs in table.items()}


def judge_kinds(table: Table, level: Level) -> tuple[Ruling, ...]:
    """A ruling on right answers for each kind. All pairs of all kinds are one family for Holm and Tarone."""
    asked = {score.kind for score in next(iter(table.values()))[0]}
    kinds = [kind for kind in Kind if kind in asked]
    right = {
        kind: {
            cell: np.array([[float(s.is_right) for s in run if s.kind is kind] for run in runs])
            for cell, runs in table.items()
        }
        for kind in kinds
    }
    pairs = list(combinations(table, 2))
    sides = [(right[kind][first], right[kind][second]) for kind in kinds for first, second in pairs]
    fine = _fine_enough(level, len(sides))
    p_values = [_p_value_of_right(first, second, fine) for first, second in sides]
    # With few questions most pairs differ on too few to tell anything: they must not hide what can be told.
    least = [least_p_value(first.mean(axis=0), second.mean(axis=0)) for first, second in sides]
    corrected = iter(holm(p_values, least, 1 - level.confidence))
    rulings = []
    for kind in kinds:
        ruling = _rule(kind.value, right[kind], {pair: next(corrected) for pair in pairs}, level)
        rulings.append(replace(ruling, reasons=tuple(_kind_reasons(ruling))))
    return tuple(rulings)


def _p_value_of_right(first: Values, second: Values, level: Level) -> float:
    """McNemar's test for single runs; several make shares of yes and no."""
    if len(first) == len(second) == 1:
        return mcnemar(first[0].astype(bool).tolist(), second[0].astype(bool).tolist())
    return _p_value(first, second, level)


def _p_value(first: Values, second: Values, level: Level) -> float:
    """A permutation test over questions; of several runs the larger p-value of it and a test over runs too.

    To the first alone three trainings that happened to do well would be a difference.
    """
    over_questions = paired_permutation(first.mean(axis=0), second.mean(axis=0), level)
    if len(first) == len(second) == 1:
        return over_questions
    return max(over_questions, mean_p_value(first - second))


def _permutation_pairs(utility: Mapping[str, Values], level: Level) -> dict[tuple[str, str], float]:
    pairs = list(combinations(utility, 2))
    level = _fine_enough(level, len(pairs))
    p_values = [_p_value(utility[first], utility[second], level) for first, second in pairs]
    return dict(zip(pairs, holm(p_values), strict=True))


def _fine_enough(level: Level, num_tests: int) -> Level:
    """With more permutations where those asked for could tell nothing apart among so many tests."""
    least = enough_resamples(num_tests, 1 - level.confidence)
    return replace(level, num_resamples=max(level.num_resamples, least))


def _rule(
    about: str, values: Mapping[str, Values], p_values: Mapping[tuple[str, str], float], level: Level
) -> Ruling:
    means = {cell: float(own.mean()) for cell, own in values.items()}
    ranked = sorted(means, key=lambda cell: (-means[cell], cell))
    best = ranked[0]
    pairs = {
        (first, second): Pair(first, second, mean_interval(values[first] - values[second], level), p)
        for (first, second), p in p_values.items()
    }

    def is_behind(cell: str) -> bool:
        # Beside the test the interval that is shown must leave out 0, and no run may contradict it.
        pair = pairs[(best, cell) if (best, cell) in pairs else (cell, best)]
        in_every_run = bool(np.all((values[best] - values[cell]).mean(axis=1) > 0))
        leaves_out_0 = pair.difference.low > 0 or pair.difference.high < 0
        return in_every_run and leaves_out_0 and pair.p_value < 1 - level.confidence

    return Ruling(
        about=about,
        num_questions=max(own.shape[1] for own in values.values()),
        cells={cell: share_interval(own, level) for cell, own in values.items()},
        pairs=tuple(pairs.values()),
        leaders=tuple(cell for cell in ranked if cell == best or not is_behind(cell)),
        reasons=(),
    )


def _kind_reasons(ruling: Ruling) -> list[str]:
    shares = ", ".join(f"{cell} {value.mean:.0%}" for cell, value in ruling.cells.items())
    return [f"Right on {ruling.num_questions} {ruling.about} questions: {shares}.", _pair_reason(ruling)]


def _row_reasons(rows: Mapping[str, Mapping[str, float]]) -> list[str]:
    return [
        f"{ROW_NAMES[row].capitalize()} (1 is best): "
        f"{', '.join(f'{cell} {value:.2f}' for cell, value in cells.items())}."
        for row, cells in rows.items()
    ]


def _pair_reason(ruling: Ruling) -> str:
    """What separates the best cell from the next one, or that nothing does."""
    if len(ruling.cells) == 1:
        return "There is one cell, so nothing to compare it with."
    if ruling.text == NO_DIFFERENCE:
        return "No cell is ahead of the others by more than chance would make it on this many questions."
    if len(ruling.leaders) > 1:
        *others, last = ruling.leaders
        return f"{', '.join(others)} and {last} are ahead of the rest and cannot be told apart."
    best = ruling.leaders[0]
    second = sorted(ruling.cells, key=lambda cell: (-ruling.cells[cell].mean, cell))[1]
    pair = next(pair for pair in ruling.pairs if {pair.first, pair.second} == {best, second})
    return (
        f"{best} is ahead of {second}, the next best, by {abs(pair.difference.mean) * 100:.0f} points "
        f"({pair.p_text} after correction)."
    )
