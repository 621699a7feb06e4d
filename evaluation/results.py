"""All figures of a comparison in one value, from which report, summary and JSON are made. Pure."""

from __future__ import annotations

import os
import platform
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import psutil

from cluster.errors import Conflict
from evaluation.asking import Answer
from evaluation.config import CompareConfig
from evaluation.questions import ANSWERABLE, Kind, Question
from evaluation.scores import Score, score_all
from evaluation.statistics import Interval, mean_interval
from evaluation.verdict import Level, Verdict, judge

NOT_MEASURED = (
    "Training more than once: one trained model is compared, so the spread between training seeds is not in "
    "the intervals. They tell what other questions of the same kind would give, not another training run.",
    "Data dependency: quality against a share of the training data or of the documents.",
    "Adaptability: the time until an answer is right after a document changed, by re-ingesting and by re-training.",
    "Scalability: throughput against replicas, and latency against the size of the index.",
    "Training cost: the computational cost here is that of answering, in tokens; seconds, money and energy of "
    "training are not in it.",
    "Forgetting: what the tuned model lost of its general abilities, beyond the small talk here.",
    "Style and form: an answer is right or wrong by its facts.",
    "Abstention and fabrication are told by English phrases; what a model says otherwise is taken for a statement.",
)


@dataclass(frozen=True)
class Spread:
    """Median and 99th percentile, in milliseconds."""

    p50_ms: float
    p99_ms: float


@dataclass(frozen=True)
class CellFigures:
    """What one cell did on all questions."""

    cell: str
    model: str  # as asked
    served_model: str  # as answered
    measures: dict[str, Interval | None]  # None where the measure applies to no question
    failures: dict[str, int]
    ttft: Spread
    total: Spread
    stages: dict[str, float]  # median milliseconds
    mean_prompt_tokens: float
    mean_completion_tokens: float


@dataclass(frozen=True)
class Line:
    """One question with every cell's answer."""

    question: Question
    answers: dict[str, Answer]
    scores: dict[str, Score]

    @property
    def cells_differ(self) -> bool:
        return len({score.is_right for score in self.scores.values()}) > 1


@dataclass(frozen=True)
class Results:
    config: CompareConfig
    made_at: datetime
    machine: dict[str, str]
    cells: tuple[CellFigures, ...]
    verdict: Verdict
    lines: tuple[Line, ...]

    def as_json(self) -> dict[str, Any]:
        """Every figure; the answers themselves stand in answers.jsonl."""
        return {
            "config": self.config.model_dump(mode="json"),
            "made_at": self.made_at.isoformat(timespec="seconds"),
            "machine": self.machine,
            "conclusion": {
                ruling.about: ruling.text for ruling in (self.verdict.overall, *self.verdict.kinds)
            },
            "verdict": asdict(self.verdict),
            "cells": [asdict(figures) for figures in self.cells],
            "scores": [asdict(score) for line in self.lines for score in line.scores.values()],
            "not_measured": list(NOT_MEASURED),
        }


def collect(
    config: CompareConfig, questions: Sequence[Question], answers: Sequence[Answer], made_at: datetime
) -> Results:
    """Score and judge all answers.

    Raises Conflict when a cell was answered by two models, as when an alias was moved between two runs.
    """
    scores = score_all(answers, questions, config.numeric_tolerance)
    level = Level(config.confidence, config.num_resamples, config.seed)
    return Results(
        config=config,
        made_at=made_at.astimezone(UTC),
        machine=client_machine(),
        cells=tuple(
            _figures(
                cell,
                model,
                [answer for answer in answers if answer.cell == cell],
                [score for score in scores if score.cell == cell],
                level,
            )
            for cell, model in config.cells.items()
        ),
        verdict=judge(scores, config.weights, level),
        lines=tuple(_lines(questions, answers, scores)),
    )


def client_machine() -> dict[str, str]:
    """The machine that asked, which for a local service is the one that answered."""
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "cpus": str(os.cpu_count()),
        "memory_gib": f"{psutil.virtual_memory().total / 2**30:.0f}",
        "python": platform.python_version(),
        **{name: _version(name) for name in ("hamlet", "vllm", "torch", "openai")},
    }


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _figures(
    cell: str, model: str, answers: Sequence[Answer], scores: Sequence[Score], level: Level
) -> CellFigures:
    served = {answer.model for answer in answers}
    if len(served) > 1:
        raise Conflict(
            f"cell {cell} was answered by {' and '.join(sorted(served))}; give another output folder to ask "
            "all questions of one model",
            f"cells.{cell}",
        )
    stages = sorted({stage for answer in answers for stage in answer.stage_ms})
    return CellFigures(
        cell=cell,
        model=model,
        served_model=served.pop(),
        measures={
            name: mean_interval(values, level.confidence, level.num_resamples, level.seed) if values else None
            for name, values in _measures(scores).items()
        },
        failures=dict(Counter(score.failure.value for score in scores)),
        ttft=_spread(answer.ttft_ms for answer in answers),
        total=_spread(answer.total_ms for answer in answers),
        stages={
            stage: float(np.median([a.stage_ms[stage] for a in answers if stage in a.stage_ms]))
            for stage in stages
        },
        mean_prompt_tokens=float(np.mean([answer.prompt_tokens for answer in answers])),
        mean_completion_tokens=float(np.mean([answer.completion_tokens for answer in answers])),
    )


def _measures(scores: Sequence[Score]) -> dict[str, list[float]]:
    """Measure to its values over the questions it applies to."""

    def values(name: str, *kinds: Kind) -> list[float]:
        found = [getattr(score, name) for score in scores if not kinds or score.kind in kinds]
        return [float(value) for value in found if value is not None]

    return {
        "right": values("is_right"),
        "answer contained": values("is_right", *ANSWERABLE),
        "exact match": values("exact_match"),
        "token F1": values("token_f1"),
        "citation precision": values("citation_precision"),
        "citation recall": values("citation_recall"),
        "abstains where it should": values("abstains", Kind.UNANSWERABLE),
        "abstains where it should not": values("abstains", *ANSWERABLE),
        "fabricates": values("fabricates"),
    }


def _spread(values_ms: Iterable[float]) -> Spread:
    p50, p99 = np.percentile(list(values_ms), [50, 99])
    return Spread(float(p50), float(p99))


def _lines(
    questions: Sequence[Question], answers: Sequence[Answer], scores: Sequence[Score]
) -> Iterable[Line]:
    for question in questions:
        yield Line(
            question,
            {answer.cell: answer for answer in answers if answer.question_id == question.id},
            {score.cell: score for score in scores if score.question_id == question.id},
        )
