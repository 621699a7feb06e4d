"""Over real HTTP with the real client, against a service whose answers are known."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

from cluster.errors import DataError, NotFound, Unavailable
from evaluation.__main__ import app

NUM_QUESTIONS = 7
RUNNER = CliRunner()


@pytest.fixture
def config_file(tmp_path: Path, service: Any, questions_file: Path) -> Path:
    service.texts = {f"Question {n}?": f"It is {n}." for n in range(10, 16)}
    path = tmp_path / "compare.yaml"
    config = {
        "questions": str(questions_file),
        "base_url": service.base_url,
        "cells": {"plain": "base", "rag": "base+rag"},
        "num_resamples": 200,
        "max_retries": 0,
        "output": str(tmp_path / "out"),
    }
    path.write_text(yaml.safe_dump(config))
    return path


def run(*arguments: object) -> Result:
    """Run the command line; a HamletError, which `cluster.cli.run` would print, is raised."""
    result = RUNNER.invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_a_comparison_asks_everything_once_and_writes_its_files(
    config_file: Path, tmp_path: Path, service: Any
) -> None:
    result = run("compare", config_file)
    assert result.exit_code == 0
    assert "Verdict:" in result.output
    assert len(service.asked) == len(set(service.asked)) == 2 * NUM_QUESTIONS
    figures = json.loads((tmp_path / "out" / "results.json").read_text())
    assert figures["conclusion"]["taught"] == "no difference"
    assert "<!doctype html>" in (tmp_path / "out" / "report.html").read_text()


def test_every_answer_is_kept_with_its_times_tokens_citations_and_hits(
    config_file: Path, tmp_path: Path
) -> None:
    run("compare", config_file)
    lines = [json.loads(line) for line in (tmp_path / "out" / "answers.jsonl").read_text().splitlines()]
    answer = next(line for line in lines if line["cell"] == "rag" and line["question_id"] == "q12")
    assert answer["text"] == "It is 12."
    assert answer["cited"] == ["leave.md"]
    assert answer["hits"] == [{"filename": "leave.md", "text": "27 days", "score": 0.7}]
    assert answer["stage_ms"] == {"search": 1.5, "generate": 20.0}
    assert (answer["prompt_tokens"], answer["completion_tokens"]) == (20, 4)
    assert 0 < answer["ttft_ms"] <= answer["total_ms"]


def test_an_interrupted_comparison_asks_only_what_is_missing(config_file: Path, service: Any) -> None:
    service.num_served_before_failing = 5
    with pytest.raises(Unavailable, match="run the same command again"):
        run("compare", config_file, "concurrency=2")
    num_before = len(service.asked)
    service.num_served_before_failing = None
    assert run("compare", config_file).exit_code == 0
    assert 0 < num_before < 2 * NUM_QUESTIONS
    # An answer under way when the other worker failed was served but not kept.
    assert 2 * NUM_QUESTIONS <= len(service.asked) <= 2 * NUM_QUESTIONS + 1


def test_an_overloaded_service_is_asked_again_when_it_says(config_file: Path, service: Any) -> None:
    service.refusals.extend([(429, {"Retry-After": "1"}), (503, {"Retry-After": "1"})])
    started = time.monotonic()
    assert run("compare", config_file, "max_retries=2", "concurrency=1").exit_code == 0
    assert time.monotonic() - started >= 2
    assert len(service.asked) == 2 * NUM_QUESTIONS


def test_an_unknown_model_is_named(config_file: Path) -> None:
    with pytest.raises(NotFound, match="/models"):
        run("compare", config_file, "cells.tuned=unknown")


def test_a_score_below_the_least_one_fails_the_build(questions_file: Path, service: Any) -> None:
    service.texts = {"Question 10?": "It is 10."}  # and "I do not know." is right once
    command = ("score", "--model", "base", "--questions", questions_file, "--base-url", service.base_url)
    assert run(*command, "--min-accuracy", 0.28).exit_code == 0
    failed = run(*command, "--min-accuracy", 0.29)
    assert failed.exit_code == 1
    assert "below 0.290" in failed.output


def test_a_judge_is_asked_once_for_each_answer_and_its_agreement_is_told(
    config_file: Path, tmp_path: Path, service: Any
) -> None:
    def answer(body: dict[str, Any]) -> str:
        asked: str = body["messages"][-1]["content"]
        if body["model"] != "judge":
            return str(service.texts.get(asked, "I do not know."))
        if "Question 15?" in asked:
            return "Yes and no."  # it begins with yes
        if "Question 14?" in asked:
            return "It depends."
        if "Question 13?" in asked:
            return "no"  # where the label says right
        return "**Yes**"

    service.answer = answer
    judged = ["judge.model=judge", "concurrency=1"]
    assert run("compare", config_file, *judged).exit_code == 0
    asked = [question for model, question in service.asked if model == "judge"]
    assert len(asked) == NUM_QUESTIONS, "both cells answered alike, and what is equal is asked once"
    assert any("nobody can know it" in question for question in asked)
    figures = json.loads((tmp_path / "out" / "results.json").read_text())
    judge = figures["judge"]
    assert (judge["num_judged"], judge["num_unreadable"]) == (12, 2)
    assert judge["agreement"] == pytest.approx(10 / 12)
    assert judge["right"] == {"plain": pytest.approx(5 / 6), "rag": pytest.approx(5 / 6)}
    page = (tmp_path / "out" / "report.html").read_text()
    assert "agrees with the labels on 83% of them" in page
    num_asked = len(service.asked)
    assert run("compare", config_file, *judged).exit_code == 0
    assert len(service.asked) == num_asked, "replies are kept"


def test_a_judge_that_says_neither_yes_nor_no_is_refused(config_file: Path, service: Any) -> None:
    with pytest.raises(DataError, match="name a stronger judge"):
        run("compare", config_file, "judge.model=base")
