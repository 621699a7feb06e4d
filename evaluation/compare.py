"""A comparison from its configuration to its files: answers.jsonl, results.json and report.html."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import orjson

from evaluation.asking import Answer, AnswerLog, Request, ask_all, requests_of
from evaluation.config import CompareConfig
from evaluation.questions import Question, check_leakage, load_questions
from evaluation.report import render
from evaluation.results import Results, collect


def prepare(config: CompareConfig) -> tuple[list[Question], list[Request]]:
    """Questions and requests. Raises DataError for a faulty file or for leakage, before anything is asked."""
    questions = load_questions(config.questions)
    if config.training is not None:
        check_leakage(questions, config.training)
    return questions, requests_of(config, questions)


def compare(
    config: CompareConfig,
    questions: list[Question],
    requests: list[Request],
    on_answer: Callable[[Answer], None],
) -> Results:
    """Ask what was not asked before, judge, and write the files. Errors as in `ask_all` and `collect`.

    `on_answer` is called for each new answer.
    """
    with AnswerLog(config.output / "answers.jsonl") as log:
        answers = ask_all(config, requests, log, on_answer)
    results = collect(config, questions, answers, datetime.now(UTC))
    options = orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS
    write_whole(config.output / "results.json", orjson.dumps(results.as_json(), option=options))
    write_whole(config.output / "report.html", render(results).encode())
    return results


def write_whole(path: Path, content: bytes) -> None:
    """Write a file that is never seen half written."""
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(content)
    partial.replace(path)
