"""What one cell did on all questions: its measures with their intervals, its times and its faults. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cluster.errors import Conflict
from evaluation.answers import Answer
from evaluation.questions import ANSWERABLE, Kind
from evaluation.scores import Score
from evaluation.statistics import Interval, Level, share_interval


@dataclass(frozen=True)
class Spread:
    """Median and 99th percentile, in milliseconds."""

    p50_ms: float
    p99_ms: float


@dataclass(frozen=True)
class CellFigures:
    """What one cell did on all questions, over all of its training runs."""

    cell: str
    model: str  # as asked
    served_models: tuple[str, ...]  # as answered
    measures: dict[str, Interval | None]  # None where the measure applies to no question
    right_by_run: dict[str, float]
    failures: dict[str, int]
    ttft: Spread
    total: Spread
    stages: dict[str, Spread]
    mean_prompt_tokens: float
    mean_completion_tokens: float
    cut_off: float  # share of answers that ended at the greatest length


def cell_figures(
    cell: str, model: str, answers: Sequence[Answer], scores: Sequence[Score], level: Level
) -> CellFigures:
    """All figures of one cell. Raises Conflict when one of its runs was answered by two models on one route."""
    # By route too: `auto` takes several, each with a model of its own.
    served: dict[tuple[str, str], set[str]] = {}
    for answer in answers:
        served.setdefault((answer.variant, answer.route), set()).add(answer.model)
    runs = dict.fromkeys(answer.variant for answer in answers)
    for models in served.values():
        if len(models) > 1:
            raise Conflict(
                f"cell {cell} was answered by {' and '.join(sorted(models))}; give another output folder to "
                "ask all questions of one model",
                f"cells.{cell}",
            )
    stages = sorted({stage for answer in answers for stage in answer.stage_ms})
    return CellFigures(
        cell=cell,
        model=model,
        served_models=tuple(sorted({name for models in served.values() for name in models})),
        measures={name: _interval(values, len(runs), level) for name, values in _measures(scores).items()},
        right_by_run={
            variant: float(np.mean([score.is_right for score in scores if score.variant == variant]))
            for variant in runs
        },
        failures=dict(Counter(score.failure.value for score in scores)),
        ttft=_spread(answer.ttft_ms for answer in answers),
        total=_spread(answer.total_ms for answer in answers),
        stages={
            stage: _spread(a.stage_ms[stage] for a in answers if stage in a.stage_ms) for stage in stages
        },
        mean_prompt_tokens=float(np.mean([answer.prompt_tokens for answer in answers])),
        mean_completion_tokens=float(np.mean([answer.completion_tokens for answer in answers])),
        cut_off=float(np.mean([answer.finish_reason == "length" for answer in answers])),
    )


def _interval(values: Mapping[str, Sequence[float]], num_runs: int, level: Level) -> Interval | None:
    """Over questions and training runs; over the means of questions where some run lacks the measure."""
    if not values:
        return None
    if all(len(own) == num_runs for own in values.values()):
        sample = np.array(list(values.values())).T
    else:
        sample = np.array([[np.mean(own) for own in values.values()]])
    return share_interval(sample, level)


def _measures(scores: Sequence[Score]) -> dict[str, dict[str, list[float]]]:
    """Measure to question to its values, one for each run that it applies to."""

    def values(name: str, *kinds: Kind) -> dict[str, list[float]]:
        found: dict[str, list[float]] = {}
        for score in scores:
            value = getattr(score, name)
            if value is not None and (not kinds or score.kind in kinds):
                found.setdefault(score.question_id, []).append(float(value))
        return found

    return {
        "right": values("is_right"),
        "answer contained": values("is_right", *ANSWERABLE),
        "exact match": values("exact_match"),
        "token F1": values("token_f1"),
        "in the form asked for": values("has_form"),
        "citation precision": values("citation_precision"),
        "citation recall": values("citation_recall"),
        "abstains where it should": values("abstains", Kind.UNANSWERABLE),
        "abstains where it should not": values("abstains", *ANSWERABLE),
        "fabricates": values("fabricates"),
    }


def _spread(values_ms: Iterable[float]) -> Spread:
    p50, p99 = np.percentile(list(values_ms), [50, 99])
    return Spread(float(p50), float(p99))
