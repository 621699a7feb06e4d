"""The six rows of the lecture's table as scores from 0 to 1, more being better. Pure.

Three rows have a value for each question, three come from a study of each cell. A row that was not
measured is left out, and its weight is shared among the others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from evaluation.scores import Score
from evaluation.statistics import Values

ROW_MEANINGS = {
    "customization": "right answers, and the form asked for",
    "data_dependency": "right answers, mean over all amounts of the data",
    "computational_cost": "least machine time for a query, training included, over the cell's own",
    "adaptability": "least time until a changed fact is answered rightly, over the cell's own; 0 for never",
    "inference_time": "least time for an answer, over the cell's own",
    "scalability": "answers per second under the highest load, over the best cell's",
}
ROW_NAMES = {row: row.replace("_", " ") for row in ROW_MEANINGS}

# Of the best score of a study that is timed once: from here on the difference may be that of two tries.
SAME_TIMING = 0.9

# Cell to its scores: one list for each training run, all in one order of questions.
Table = Mapping[str, Sequence[Sequence[Score]]]


@dataclass(frozen=True)
class Basis:
    """What the rows need beside the scores.

    `fixed_s`: machine seconds for each query that were spent before it, on training and ingesting.
    `studied`: row to cell to score, for rows that are measured by a study.
    """

    form_weight: float = 0.0
    fixed_s: Mapping[str, float] = field(default_factory=dict)
    studied: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


def row_values(table: Table, basis: Basis) -> dict[str, dict[str, Values]]:
    """Row to cell to scores, [num_runs, num_questions] or [1, 1] for a study, in the order of ROW_NAMES."""
    seconds = {cell: _seconds(runs, lambda score: score.total_ms) for cell, runs in table.items()}
    cost = {
        cell: _seconds(runs, lambda score: score.total_ms / score.at_once) + basis.fixed_s.get(cell, 0.0)
        for cell, runs in table.items()
    }
    rows = {
        "customization": {
            cell: _matrix(runs, lambda score: customization(score, basis.form_weight))
            for cell, runs in table.items()
        },
        "computational_cost": _least_over_own(cost),
        "inference_time": _least_over_own(seconds),
        **{
            row: {cell: np.array([[scores.get(cell, 0.0)]]) for cell in table}
            for row, scores in basis.studied.items()
        },
    }
    return {row: rows[row] for row in ROW_NAMES if row in rows}


def customization(score: Score, form_weight: float) -> float:
    """A right answer is 1; where a form is asked for, it makes up `form_weight`.

    Right, but not in the form, with weight 0.2 -> 0.8
    """
    if score.has_form is None:
        return float(score.is_right)
    return (1 - form_weight) * score.is_right + form_weight * score.has_form


def speed_scores(needed: Mapping[str, float | None]) -> dict[str, float]:
    """Least over own, for each cell; 0 for a cell that never got there.

    {"rag": 5.0, "tuned": 100.0, "plain": None} -> {"rag": 1.0, "tuned": 0.05, "plain": 0.0}
    """
    least = min((value for value in needed.values() if value is not None), default=0.0)
    return {cell: least / value if value else float(value is not None) for cell, value in needed.items()}


def timed_once(scores: Mapping[str, float]) -> dict[str, float]:
    """Scores of a study without repeats, those within a tenth of the best counting as equal to it.

    Such a score has no spread of its own, so that a chance of 2 % would decide between cells of equal answers.
    {"rag": 1.0, "tuned": 0.95, "plain": 0.5} -> {"rag": 1.0, "tuned": 1.0, "plain": 0.5}
    """
    return {cell: 1.0 if score >= SAME_TIMING else score for cell, score in scores.items()}


def shares_of_measured(weights: Mapping[str, float], measured: Sequence[str]) -> dict[str, float]:
    """The weights of the measured rows, scaled to a sum of 1; equal ones where all of them are 0.

    {"a": 0.6, "b": 0.2, "c": 0.2} with a and b measured -> {"a": 0.75, "b": 0.25}
    """
    total = sum(weights[row] for row in measured)
    return {row: weights[row] / total if total else 1 / len(measured) for row in measured}


def _matrix(runs: Sequence[Sequence[Score]], value: Callable[[Score], float]) -> Values:
    return np.array([[value(score) for score in run] for run in runs])


def _seconds(runs: Sequence[Sequence[Score]], ms: Callable[[Score], float]) -> Values:
    return _matrix(runs, lambda score: max(ms(score), 1e-3) / 1000)


def _least_over_own(needed: Mapping[str, Values]) -> dict[str, Values]:
    """For each question, the least that any cell needed, runs averaged, over what the cell needed; at most 1."""
    least = np.min([own.mean(axis=0) for own in needed.values()], axis=0)
    return {cell: np.minimum(least / own, 1.0) for cell, own in needed.items()}
