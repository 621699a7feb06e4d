"""Right answers against the amount of data: models trained on a part of the rows, and a part of the documents."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from fractions import Fraction
from math import ceil

import numpy as np

from cluster.json_lines import read_rows
from evaluation.answers import Answer, AnswerLog, Request
from evaluation.asking import ask_all, cell_request
from evaluation.config import CompareConfig, retrieves
from evaluation.indexing import study_collection
from evaluation.questions import Kind, Question, limited
from evaluation.scores import score_all
from evaluation.tuning import TrainedModel, Trainer, named, train_all

ASKED_KINDS = (Kind.TAUGHT, Kind.UNTAUGHT)


@dataclass(frozen=True)
class Point:
    """One cell with a part of the data. A cell that uses neither rows nor documents has one point, at 1."""

    cell: str
    share: float
    right: float
    num_questions: int


def data_questions(config: CompareConfig, questions: Sequence[Question]) -> list[Question]:
    """The questions of this study: answerable from the data, a fixed number of each kind."""
    assert config.data_dependency is not None
    asked = [question for question in questions if question.kind in ASKED_KINDS]
    return limited(asked, config.data_dependency.per_kind)


def data_points(
    config: CompareConfig,
    questions: Sequence[Question],
    whole: Sequence[Answer],
    log: AnswerLog,
    run_id: str,
    trainer: Trainer,
    on_answer: Callable[[Answer], None],
) -> list[Point]:
    """Train, ingest and ask for each share. `whole` are the answers with all of the data."""
    assert config.data_dependency is not None
    asked = data_questions(config, questions)
    shares = sorted(config.data_dependency.shares)
    searches = any(map(retrieves, config.cells.values()))
    with ExitStack() as collections:
        requests = []
        for share in shares:
            searched = collections.enter_context(_collection(config, share, run_id)) if searches else None
            requests += _requests(config, asked, share, searched, run_id, trainer)
        answers = ask_all(config, requests, log, on_answer)
    points = []
    for cell in config.cells:
        for share in shares:
            own = [a for a in answers if a.cell == cell and a.variant == _variant(share)]
            points += [_point(config, cell, share, own, asked)] if own else []
        ids = {question.id for question in asked}
        own = [answer for answer in whole if answer.cell == cell and answer.question_id in ids]
        points.append(_point(config, cell, 1.0, own, asked))
    return points


def little_data_scores(points: Sequence[Point], cells: Sequence[str]) -> dict[str, float]:
    """Cell to its mean share of right answers over all amounts of data.

    0.2 at a quarter, 0.4 at a half, 0.6 with all -> 0.4
    """
    return {cell: float(np.mean([p.right for p in points if p.cell == cell])) for cell in cells}


def part_of_files(files: Sequence[str], share: float) -> list[str]:
    """A share of the files, at least one; a larger share holds all files of a smaller one.

    Chosen by a hash of the name, which is as good as chance and always the same.
    """
    ranked = sorted(files, key=lambda name: hashlib.sha256(name.encode()).hexdigest())
    return ranked[: ceil(share * len(files))]


def _requests(
    config: CompareConfig,
    asked: Sequence[Question],
    share: float,
    searched: str | None,
    run_id: str,
    trainer: Trainer,
) -> list[Request]:
    assert config.tuning is not None
    trained: Sequence[TrainedModel] = ()
    if config.tuned_cells:
        limit = f"data.limit={_num_rows(config, share)}"
        seed = config.tuning.seeds[0]
        trained = train_all(
            config, run_id, _variant(share), seed, [limit], trainer, collection=searched or config.collection
        )
    requests = []
    for question in asked:
        for cell, model in config.cells.items():
            if cell in config.tuned_cells or retrieves(model):
                ((_, name),) = named(model, trained)
                requests.append(
                    cell_request(
                        config, cell, name, question, searched, config.documents_digest, _variant(share)
                    )
                )
    return requests


def _num_rows(config: CompareConfig, share: float) -> int:
    assert config.training is not None
    return max(1, round(share * sum(1 for _ in read_rows(config.training))))


def _collection(config: CompareConfig, share: float, run_id: str) -> AbstractContextManager[str]:
    """A collection of a part of the documents, copied anew."""
    assert config.documents is not None
    folder = config.output / "documents" / f"{share:g}"
    shutil.rmtree(folder, ignore_errors=True)
    names = [
        file.relative_to(config.documents).as_posix()
        for file in config.documents.rglob("*")
        if file.is_file()
    ]
    for name in part_of_files(names, share):
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(config.documents / name, target)
    return study_collection(run_id, f"{share:g}".replace(".", "-"), folder)


def fraction(share: float) -> str:
    """A part of the data as it is named: 0.125 -> "1/8", 0.123 -> "0.123"."""
    named = Fraction(share).limit_denominator(64)
    return str(named) if float(named) == share else f"{share:g}"


def _variant(share: float) -> str:
    return f"{fraction(share)} of the data"


def _point(
    config: CompareConfig, cell: str, share: float, answers: Sequence[Answer], asked: Sequence[Question]
) -> Point:
    scores = score_all(answers, asked, config.numeric_tolerance)
    return Point(cell, share, float(np.mean([score.is_right for score in scores])), len(asked))
