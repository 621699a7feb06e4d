"""A comparison from its configuration to its report.

    ready? -> ingest -> (make training rows) -> train for each seed -> ask every cell -> studies -> verdict -> report

Every step keeps what it has done, so that the same command goes on after an interruption.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

import orjson

from cluster.errors import DataError
from cluster.reports import Report, Reports, ReportStatus
from evaluation.adaptability import Adaptability, check_change, measure_adaptability
from evaluation.answers import Answer, AnswerLog, Request
from evaluation.asking import ask_again, ask_all, cell_request, wait_until_ready
from evaluation.config import CompareConfig, Maker, retrieves
from evaluation.data_dependency import Point, data_points, data_questions
from evaluation.indexing import ingest
from evaluation.judging import judge_answers
from evaluation.kept import Kept, once, write_whole
from evaluation.leakage import check_leakage
from evaluation.making import Made, with_made_training
from evaluation.questions import (
    GENERAL_QUESTIONS,
    Question,
    check_documents,
    limited,
    load_questions,
)
from evaluation.report import render
from evaluation.results import Measured, Results, collect
from evaluation.routes import route_rows
from evaluation.scalability import Scalability, measure_scalability
from evaluation.tuning import (
    TrainedModel,
    Trainer,
    named,
    run_id_of,
    train_as_job,
    train_seeds,
    training_files,
)
from evaluation.watching import Watcher

# Several times the questions in flight, so that only the first and last of a block share a batch with another cell.
BLOCK_QUESTIONS = 24


class Ingested(Kept):
    seconds: float | None  # None where documents were in the collection before


def prepare(config: CompareConfig) -> list[Question]:
    """The questions. Raises what is at fault in the files and keys that are named, before anything is asked.

    DataError for a faulty file, for leakage and for a fact that does not stand where it is changed; ConfigError for
    a training file that cannot be read and for a key that is not set.
    """
    questions = load_questions(config.questions)
    for rows in training_files(config):
        check_leakage(questions, rows)
    if config.documents is not None:
        check_documents(questions, config.documents)
        _ = config.documents_digest  # reads them all
    if config.data_dependency is not None and not data_questions(config, questions):
        raise DataError(
            "data_dependency asks taught and untaught questions, of which there are none; leave it out",
            "data_dependency",
        )
    check_change(config)
    if config.judge is not None:
        config.judge.service(config)
    if config.making is not None and config.making.maker is Maker.MODEL:
        config.making.service(config)
    return limited(questions, config.limit_per_kind)


def requests_of(
    config: CompareConfig, questions: Iterable[Question], trained: Sequence[TrainedModel] = ()
) -> list[Request]:
    """Every question of every cell and training run, block by block of questions, and in a block cell by cell.

    So a machine that grows slower or busier in the course of a run does so for all cells alike, and most answers
    are made among others of their own cell: a batch that holds one adapter costs all of its answers the adapter.
    """
    asked = list(questions)
    blocks = [asked[start : start + BLOCK_QUESTIONS] for start in range(0, len(asked), BLOCK_QUESTIONS)]
    return [
        cell_request(config, cell, name, question, config.collection, config.documents_digest, variant)
        for block in blocks
        for cell, model in config.cells.items()
        for variant, name in named(model, trained)
        for question in block
    ]


def compare(
    config: CompareConfig, questions: list[Question], watcher: Watcher, trainer: Trainer = train_as_job
) -> Results:
    """Measure, judge, and write the files. Errors as in `ask_all`, `train_all` and `collect`."""
    report_id = run_id_of(config.output)
    watcher.stage(f"waiting for the service at {config.base_url}")
    wait_until_ready(config)
    ingest_s = _ingest(config, watcher)
    made: Made | None = None
    if config.making is not None:
        config, questions, made = with_made_training(config, questions, watcher)
    if config.tuned_cells:
        _try_untrained_cells(config, questions)
        watcher.stage("training")
    trained = train_seeds(config, report_id, trainer)
    with AnswerLog(config.output / "answers.jsonl") as log:
        requests = requests_of(config, questions, trained)
        general, general_requests = _general(config, trained)
        watcher.stage("asking", sum(log.find(r) is None for r in (*requests, *general_requests)))
        answers = ask_all(config, requests, log, watcher.answered)
        general_answers = ask_all(config, general_requests, log, watcher.answered)
        first_run = trained[0].variant if trained else ""
        whole = [answer for answer in answers if answer.variant in ("", first_run)]
        data = _data(config, questions, whole, log, report_id, trainer, watcher)
    measured = Measured(
        questions=questions,
        answers=answers,
        trained=trained,
        made=made,
        judged=None if config.judge is None else judge_answers(config, questions, answers, watcher),
        ingest_s=ingest_s,
        general_questions=general,
        general_answers=general_answers,
        data=data,
        adaptability=_adaptability(config, trained, report_id, trainer, watcher),
        scalability=_scalability(config, requests, first_run, report_id, watcher),
        report_id=report_id,
    )
    results = collect(config, measured, datetime.now(UTC))
    write_files(results)
    return results


def write_files(results: Results) -> None:
    """results.json, report.html and routes.jsonl in the output folder."""
    options = orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS
    figures = orjson.dumps(results.as_json(), option=options)
    page = render(results).encode()
    write_whole(results.config.output / "results.json", figures)
    write_whole(results.config.output / "report.html", page)
    rows = b"".join(orjson.dumps(row) + b"\n" for row in route_rows(results.lines))
    write_whole(results.config.output / "routes.jsonl", rows)


def publish(results: Results, report: Report) -> Report:
    """Put the written report into storage, where every replica serves it."""
    output = results.config.output
    told = report.model_copy(
        update={"verdict": results.verdict.overall.text, "status": ReportStatus.SUCCEEDED}
    )
    return Reports().finish(
        told, (output / "report.html").read_bytes(), (output / "results.json").read_bytes()
    )


def _ingest(config: CompareConfig, watcher: Watcher) -> float | None:
    """Ingest the documents; returns the seconds of the first time, if there was everything to do then."""
    if config.documents is None:
        return None
    watcher.stage("ingesting")
    assert config.collection is not None
    done = ingest(config.documents, config.collection)
    found = Ingested(seconds=done.seconds if done.is_whole else None)
    asked = (config.documents_digest, config.collection)
    return once(config.output, "ingest", asked, Ingested, lambda: found).seconds


def _try_untrained_cells(config: CompareConfig, questions: Sequence[Question]) -> None:
    """A question for each cell that waits for no training: what is not served is told before an hour of that."""
    untrained = {cell: model for cell, model in config.cells.items() if cell not in config.tuned_cells}
    ask_again(
        config, requests_of(config.model_copy(update={"cells": untrained}), questions[:1]), config.concurrency
    )


def _general(config: CompareConfig, trained: Sequence[TrainedModel]) -> tuple[list[Question], list[Request]]:
    """The fixed general set, for cells that do not retrieve: what tuning does to them is forgetting."""
    cells = {cell: model for cell, model in config.cells.items() if not retrieves(model)}
    if not config.forgetting or not config.tuned_cells or not cells:
        return [], []
    questions = limited(load_questions(GENERAL_QUESTIONS), config.limit_per_kind)
    return questions, requests_of(config.model_copy(update={"cells": cells}), questions, trained)


def _data(
    config: CompareConfig,
    questions: Sequence[Question],
    whole: Sequence[Answer],
    log: AnswerLog,
    report_id: str,
    trainer: Trainer,
    watcher: Watcher,
) -> list[Point]:
    if config.data_dependency is None:
        return []
    watcher.stage("data dependency")
    return data_points(config, questions, whole, log, report_id, trainer, watcher.answered)


def _adaptability(
    config: CompareConfig, trained: Sequence[TrainedModel], report_id: str, trainer: Trainer, watcher: Watcher
) -> Adaptability | None:
    if config.adaptability is None:
        return None
    watcher.stage("adaptability")
    asked = (
        config.adaptability,
        config.cells,
        config.system_prompts,
        config.max_tokens,
        config.seed,
        config.base_url,
        config.documents_digest,
        [run.model for run in trained],
    )
    return once(
        config.output,
        "adaptability",
        asked,
        Adaptability,
        lambda: measure_adaptability(config, trained, report_id, trainer),
    )


def _scalability(
    config: CompareConfig, requests: Sequence[Request], first_run: str, report_id: str, watcher: Watcher
) -> Scalability | None:
    if config.scalability is None:
        return None
    watcher.stage("scalability")
    own = [request for request in requests if request.variant in ("", first_run)]
    asked = (config.scalability, config.cells, [request.fingerprint for request in own])
    return once(
        config.output, "scalability", asked, Scalability, lambda: measure_scalability(config, own, report_id)
    )
