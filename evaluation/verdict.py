"""From scores to a verdict: which cell for which kind of question, how sure, and what would change it. Pure.

A cell leads when no other cell is better by more than noise. One leader among several cells is a winner;
several leaders are not told apart; when all lead there is no difference.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from cluster.errors import DataError
from evaluation.config import Weights
from evaluation.metrics import Failure
from evaluation.questions import Kind
from evaluation.scores import Score
from evaluation.statistics import Interval, Values, holm, mcnemar, mean_interval, paired_permutation

NO_DIFFERENCE = "no difference"


@dataclass(frozen=True)
class Level:
    """How sure a verdict must be."""

    confidence: float = 0.95
    num_resamples: int = 5000
    seed: int = 0


@dataclass(frozen=True)
class Pair:
    """Two cells on the same questions. `difference` is first minus second; `p_value` is Holm's."""

    first: str
    second: str
    difference: Interval
    p_value: float


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


def judge(scores: Sequence[Score], weights: Weights, level: Level) -> Verdict:
    """The verdict. Raises DataError unless every cell answered the same questions."""
    table = _by_cell(scores)
    rows = row_scores(table)
    kinds = _judge_kinds(table, level)
    utility = {
        cell: sum((share * rows[row][cell] for row, share in weights.shares.items()), np.zeros(1))
        for cell in table
    }
    overall = _rule("all questions", utility, _permutation_pairs(utility, level), level)
    means = {
        row: {cell: float(values.mean()) for cell, values in cells.items()} for row, cells in rows.items()
    }
    reasons = (*_row_reasons(overall, means), *failure_reasons(table))
    return Verdict(
        overall=_with_reasons(overall, reasons),
        kinds=kinds,
        weights=weights.shares,
        rows=means,
        flips=tuple(flips(means, weights.shares)),
    )


def row_scores(table: Mapping[str, Sequence[Score]]) -> dict[str, dict[str, Values]]:
    """Row to cell to score of each question, 0 to 1 and more is better: [num_questions].

    A right answer is 1. Tokens and milliseconds count as the least that any cell needed for this question
    over what the cell needed: 1 for the cheapest, 0.5 for one twice as dear.
    """
    right = {cell: np.array([s.is_right for s in own], dtype=np.float64) for cell, own in table.items()}
    tokens = {cell: np.array([max(s.num_tokens, 1) for s in own], float) for cell, own in table.items()}
    time_ms = {cell: np.array([max(s.total_ms, 1e-3) for s in own], float) for cell, own in table.items()}
    return {
        "customization": right,
        "computational_cost": _least_over_own(tokens),
        "inference_time": _least_over_own(time_ms),
    }


def _least_over_own(needed: Mapping[str, Values]) -> dict[str, Values]:
    least = np.min(list(needed.values()), axis=0)
    return {cell: least / own for cell, own in needed.items()}


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
            if 0 <= at <= 1:
                crossings.append(Flip(row, weight, at, other))
        if crossings:
            found.append(min(crossings, key=lambda flip: abs(flip.at - flip.weight)))
    return found


def failure_reasons(table: Mapping[str, Sequence[Score]]) -> list[str]:
    """For each cell that retrieves, whose fault its wrong answers are."""
    reasons = []
    for cell, own in table.items():
        counts = Counter(score.failure for score in own)
        misses, errors = counts[Failure.RETRIEVAL_MISS], counts[Failure.GENERATION_ERROR]
        if misses + errors:
            reasons.append(
                f"{cell}: of {misses + errors} wrong answers to answerable questions, the right document was "
                f"not retrieved for {misses} and retrieved but not used rightly for {errors}."
            )
    return reasons


def _by_cell(scores: Sequence[Score]) -> dict[str, list[Score]]:
    """Cell to its scores, all in one order of questions."""
    table: dict[str, list[Score]] = {}
    for score in scores:
        table.setdefault(score.cell, []).append(score)
    if not table:
        raise DataError("there are no answers to judge")
    for own in table.values():
        own.sort(key=lambda score: score.question_id)
    asked = {cell: [score.question_id for score in own] for cell, own in table.items()}
    first, *others = asked
    for cell in others:
        if asked[cell] != asked[first]:
            raise DataError(f"cells {first} and {cell} answered different questions; finish the run first")
    return table


def _judge_kinds(table: Mapping[str, Sequence[Score]], level: Level) -> tuple[Ruling, ...]:
    """A ruling on right answers for each kind. All pairs of all kinds are one family for Holm."""
    kinds = list(
        dict.fromkeys(kind for kind in Kind for own in table.values() for s in own if s.kind is kind)
    )
    right = {
        kind: {cell: [s.is_right for s in own if s.kind is kind] for cell, own in table.items()}
        for kind in kinds
    }
    family = [
        (kind, first, second, mcnemar(right[kind][first], right[kind][second]))
        for kind in kinds
        for first, second in combinations(table, 2)
    ]
    corrected = holm([p for *_, p in family])
    rulings = []
    for kind in kinds:
        values = {cell: np.array(own, dtype=np.float64) for cell, own in right[kind].items()}
        p_values = {
            (first, second): p
            for (of, first, second, _), p in zip(family, corrected, strict=True)
            if of is kind
        }
        ruling = _rule(kind.value, values, p_values, level)
        rulings.append(_with_reasons(ruling, _kind_reasons(ruling)))
    return tuple(rulings)


def _permutation_pairs(utility: Mapping[str, Values], level: Level) -> dict[tuple[str, str], float]:
    pairs = list(combinations(utility, 2))
    p_values = [
        paired_permutation(utility[first], utility[second], level.num_resamples, level.seed)
        for first, second in pairs
    ]
    return dict(zip(pairs, holm(p_values), strict=True))


def _rule(
    about: str, values: Mapping[str, Values], p_values: Mapping[tuple[str, str], float], level: Level
) -> Ruling:
    means = {cell: float(own.mean()) for cell, own in values.items()}
    ranked = sorted(means, key=lambda cell: (-means[cell], cell))
    best = ranked[0]

    def is_behind(cell: str) -> bool:
        pair = (best, cell) if (best, cell) in p_values else (cell, best)
        return means[cell] < means[best] and p_values[pair] < 1 - level.confidence

    def interval(own: Values) -> Interval:
        return mean_interval(own, level.confidence, level.num_resamples, level.seed)

    return Ruling(
        about=about,
        num_questions=len(values[best]),
        cells={cell: interval(own) for cell, own in values.items()},
        pairs=tuple(
            Pair(first, second, interval(values[first] - values[second]), p)
            for (first, second), p in p_values.items()
        ),
        leaders=tuple(cell for cell in ranked if cell == best or not is_behind(cell)),
        reasons=(),
    )


def _with_reasons(ruling: Ruling, reasons: Sequence[str]) -> Ruling:
    return Ruling(
        ruling.about, ruling.num_questions, ruling.cells, ruling.pairs, ruling.leaders, tuple(reasons)
    )


def _kind_reasons(ruling: Ruling) -> list[str]:
    shares = ", ".join(f"{cell} {value.mean:.0%}" for cell, value in ruling.cells.items())
    return [f"Right on {ruling.num_questions} {ruling.about} questions: {shares}.", _pair_reason(ruling)]


def _row_reasons(ruling: Ruling, rows: Mapping[str, Mapping[str, float]]) -> list[str]:
    names = {
        "customization": "Right answers",
        "computational_cost": "Cost in tokens (1 is the cheapest)",
        "inference_time": "Speed (1 is the fastest)",
    }
    sentences = [
        f"{names[row]}: {', '.join(f'{cell} {value:.2f}' for cell, value in cells.items())}."
        for row, cells in rows.items()
    ]
    return [_pair_reason(ruling), *sentences]


def _pair_reason(ruling: Ruling) -> str:
    """What separates the best cell from the next one, or that nothing does."""
    if len(ruling.cells) == 1:
        return "There is one cell, so nothing to compare it with."
    if ruling.text == NO_DIFFERENCE:
        return "No cell is ahead of the others by more than chance would make it on this many questions."
    if len(ruling.leaders) > 1:
        return f"{' and '.join(ruling.leaders)} are ahead of the rest and cannot be told apart."
    best = ruling.leaders[0]
    second = sorted(ruling.cells, key=lambda cell: (-ruling.cells[cell].mean, cell))[1]
    pair = next(pair for pair in ruling.pairs if {pair.first, pair.second} == {best, second})
    return (
        f"{best} is ahead of {second}, the next best, by {abs(pair.difference.mean):.2f} "
        f"(p {'< 0.001' if pair.p_value < 0.001 else f'= {pair.p_value:.3f}'} after Holm's correction)."
    )
