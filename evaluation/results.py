"""All figures of a comparison in one value, from which report, summary and JSON are made. Pure."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import psutil

from cluster.router_policy import RouterPolicy
from cluster.versions import installed_version
from evaluation.adaptability import Adaptability
from evaluation.answers import Answer
from evaluation.config import CompareConfig, retrieves
from evaluation.cost import BreakEven, CellCost, break_evens, cell_cost, fixed_seconds_per_query
from evaluation.data_dependency import Point, little_data_scores
from evaluation.figures import CellFigures, cell_figures
from evaluation.judging import Judged
from evaluation.making import Made
from evaluation.policy import policies
from evaluation.questions import Question
from evaluation.rows import Basis, speed_scores, timed_once
from evaluation.scalability import Scalability
from evaluation.scores import Score, score_all
from evaluation.statistics import Level
from evaluation.tuning import TrainedModel, runs_of
from evaluation.verdict import Ruling, Verdict, by_cell, judge, judge_kinds

PACKAGES = ("hamlet", "ray", "vllm", "torch", "openai")


@dataclass(frozen=True)
class Measured:
    """What was measured: the answers of the cells, and the studies beside them. None where not done."""

    questions: Sequence[Question]
    answers: Sequence[Answer]
    trained: Sequence[TrainedModel] = ()
    made: Made | None = None
    judged: Judged | None = None
    ingest_s: float | None = None
    general_questions: Sequence[Question] = ()
    general_answers: Sequence[Answer] = ()
    data: Sequence[Point] = ()
    adaptability: Adaptability | None = None
    scalability: Scalability | None = None
    report_id: str = ""


@dataclass(frozen=True)
class Line:
    """One question with every answer, by cell, or by cell and training run."""

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
    costs: tuple[CellCost, ...]
    break_evens: tuple[BreakEven, ...]
    policies: dict[str, RouterPolicy]
    measured: Measured
    forgetting: Ruling | None = None
    not_measured: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Every figure; the answers themselves stand in answers.jsonl."""
        measured, verdict = self.measured, self.verdict
        return {
            "report": measured.report_id,
            "config": self.config.model_dump(mode="json"),
            "made_at": self.made_at.isoformat(timespec="seconds"),
            "machine": self.machine,
            "conclusion": {ruling.about: ruling.text for ruling in (verdict.overall, *verdict.kinds)},
            "winner": verdict.overall.winner,
            "verdict": asdict(verdict),
            "policies": {cell: policy.model_dump(mode="json") for cell, policy in self.policies.items()},
            "cells": [asdict(figures) for figures in self.cells],
            "made_training": measured.made.model_dump(mode="json") if measured.made else None,
            "judge": measured.judged.model_dump(mode="json") if measured.judged else None,
            "training": [run.model_dump(mode="json") for run in measured.trained],
            "costs": [asdict(cost) for cost in self.costs],
            "break_evens": [asdict(found) for found in self.break_evens],
            "forgetting": asdict(self.forgetting) if self.forgetting else None,
            "data_dependency": [asdict(point) for point in measured.data],
            "adaptability": measured.adaptability.model_dump(mode="json") if measured.adaptability else None,
            "scalability": measured.scalability.model_dump(mode="json") if measured.scalability else None,
            "scores": [asdict(score) for line in self.lines for score in line.scores.values()],
            "not_measured": list(self.not_measured),
        }


def collect(config: CompareConfig, measured: Measured, made_at: datetime) -> Results:
    """Score and judge all answers.

    Raises Conflict when one run of a cell was answered by two models on one route, as when an alias was moved.
    """
    form = config.form.pattern if config.form else None
    scores = score_all(measured.answers, measured.questions, config.numeric_tolerance, form)
    level = Level(config.confidence, config.num_resamples, config.seed)
    costs = tuple(_cost(config, cell, measured) for cell in config.cells)
    basis = Basis(
        form_weight=config.form.weight if config.form else 0.0,
        fixed_s=fixed_seconds_per_query(costs, config.cost),
        studied=_studied(config, measured),
    )
    return Results(
        config=config,
        made_at=made_at.astimezone(UTC),
        machine=client_machine(),
        cells=tuple(
            cell_figures(
                cell,
                model,
                [answer for answer in measured.answers if answer.cell == cell],
                [score for score in scores if score.cell == cell],
                level,
            )
            for cell, model in config.cells.items()
        ),
        verdict=judge(scores, config.weights, level, basis),
        lines=tuple(_lines(measured.questions, measured.answers, scores)),
        costs=costs,
        break_evens=tuple(break_evens(costs)),
        policies=policies(
            config.cells, measured.answers, measured.questions, measured.trained, measured.report_id
        ),
        measured=measured,
        forgetting=_forgetting(measured, level),
        not_measured=tuple(not_measured(config, measured)),
    )


def not_measured(config: CompareConfig, measured: Measured) -> Iterable[str]:
    """What a reader could take for measured and is not, in sentences."""
    num_runs = len({run.seed for run in measured.trained})
    if num_runs < 2:
        yield (
            "Training more than once: the spread between training seeds is not in the intervals. They tell "
            "what other questions of the same kind would give, not another training run."
        )
    elif num_runs < 5:
        yield f"More than {num_runs} training seeds: so few give a lower bound of the spread between runs."
    if not measured.data:
        yield "Data dependency: quality against a share of the training data or of the documents."
    if measured.adaptability is None:
        yield "Adaptability: the time until an answer is right after a document changed."
    elif not measured.adaptability.is_whole:
        yield "Adaptability by training again: the tuned cells count as never right in that row."
    if measured.scalability is None:
        yield "Scalability: throughput against requests at once, and latency against the size of the index."
    else:
        yield "Several replicas: what is said of them is a projection from one."
    if measured.made is not None:
        yield "Training rows by people: they were made from the documents, and checked by rules, not by reading."
    if not measured.trained:
        yield "Training cost: no model was trained here, so the cost is that of answering."
    if measured.ingest_s is None and any(map(retrieves, config.cells.values())):
        yield (
            "Ingesting: documents were in the collection before, so the time to index them all is not in the cost."
        )
    if not measured.general_answers:
        yield "Forgetting: what the tuned model lost of its general abilities."
    if config.form is None:
        yield "Style and form: an answer is right or wrong by its facts."
    yield "Energy and money: seconds were measured; watts and prices are the configuration's."
    yield (
        "Abstention and fabrication are told by English phrases; what a model says otherwise is taken for a "
        "statement."
    )


def client_machine() -> dict[str, str]:
    """The machine that asked, which for a local service is the one that answered."""
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "cpus": str(os.cpu_count()),
        "memory_gib": f"{psutil.virtual_memory().total / 2**30:.0f}",
        "python": platform.python_version(),
        **{name: installed_version(name) or "not installed" for name in PACKAGES},
    }


def _cost(config: CompareConfig, cell: str, measured: Measured) -> CellCost:
    own = [answer for answer in measured.answers if answer.cell == cell]
    runs = runs_of(config.cells[cell], measured.trained)
    return cell_cost(
        cell,
        config.cost,
        training_s=float(np.mean([run.seconds for run in runs])) if runs else 0.0,
        ingest_s=(measured.ingest_s or 0.0) if retrieves(config.cells[cell]) else 0.0,
        # Questions in flight share the machine: as many as were in flight with this answer.
        query_s=float(np.mean([answer.total_ms / answer.at_once for answer in own])) / 1000,
        tokens_per_query=float(np.mean([a.prompt_tokens + a.completion_tokens for a in own])),
    )


def _studied(config: CompareConfig, measured: Measured) -> dict[str, Mapping[str, float]]:
    studied: dict[str, Mapping[str, float]] = {}
    if measured.data:
        studied["data_dependency"] = little_data_scores(measured.data, list(config.cells))
    if measured.adaptability is not None:
        studied["adaptability"] = timed_once(speed_scores(measured.adaptability.seconds))
    if measured.scalability is not None:
        studied["scalability"] = timed_once(measured.scalability.scores)
    return studied


def _forgetting(measured: Measured, level: Level) -> Ruling | None:
    if not measured.general_answers:
        return None
    scores = score_all(measured.general_answers, measured.general_questions)
    return judge_kinds(by_cell(scores), level)[0]


def _lines(
    questions: Sequence[Question], answers: Sequence[Answer], scores: Sequence[Score]
) -> Iterable[Line]:
    lines = {question.id: Line(question, {}, {}) for question in questions}
    for answer, score in zip(answers, scores, strict=True):
        shown = f"{answer.cell}, {answer.variant}" if answer.variant else answer.cell
        lines[answer.question_id].answers[shown] = answer
        lines[answer.question_id].scores[shown] = score
    return lines.values()
