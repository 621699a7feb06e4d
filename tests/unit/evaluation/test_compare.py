"""A comparison with asking and ingesting played: what is refused first, what is asked anew, what a figure is of."""

from __future__ import annotations

import errno
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from cluster.errors import ConfigError, DataError, HamletError, NotFound
from evaluation import asking, report
from evaluation import compare as comparing
from evaluation.adaptability import Adaptability, Change, Way
from evaluation.answers import Answer, Request
from evaluation.compare import compare, prepare
from evaluation.config import (
    CompareConfig,
    DataDependencyConfig,
    ServiceConfig,
    TuningConfig,
    load_config,
)
from evaluation.indexing import Ingest
from evaluation.results import Results


class Silent:
    def stage(self, name: str, num_answers: int = 0) -> None: ...

    def answered(self, answer: Answer) -> None: ...


class World:
    """A folder with one document, and what was asked of whom since it was looked at the last time."""

    def __init__(self, folder: Path) -> None:
        self.document = folder / "docs" / "leave.md"
        self.document.parent.mkdir()
        self.document.write_text("27 days")
        (folder / "questions.jsonl").write_text(
            "".join(
                f'{{"id": "q{n}", "question": "How many {n}?", "answer": "27", "kind": "untaught"}}\n'
                for n in range(8)
            )
        )
        self.ingests = [Ingest(40.0, True), Ingest(3.0, False)]  # the last one again and again
        self.asked: list[str] = []
        self.config = CompareConfig.model_validate(
            {
                "questions": folder / "questions.jsonl",
                "cells": {"plain": "m", "rag": "m+rag", "auto": "auto"},
                "documents": folder / "docs",
                "collection": "handbook",
                "adaptability": {
                    "document": "leave.md",
                    "find": " days",
                    "replace": " weeks",
                    "question": "How long?",
                    "old": ["days"],
                    "new": ["weeks"],
                },
                "num_resamples": 200,
                "output": folder / "out",
            }
        )

    def run(self, **changes: Any) -> tuple[Results, list[str]]:
        self.asked.clear()
        config = self.config.model_copy(update=changes)
        return compare(config, prepare(config), Silent()), sorted(set(self.asked))

    def ingest(self, *_: Any) -> Ingest:
        return self.ingests.pop(0) if len(self.ingests) > 1 else self.ingests[0]

    async def ask(
        self, _: ServiceConfig, requests: Sequence[Request], keep: Callable[[Answer], None], at_once: int
    ) -> None:
        for request in requests:
            self.asked.append(request.cell)
            keep(
                Answer(
                    cell=request.cell,
                    question_id=request.question.id,
                    request=request.fingerprint,
                    model=request.model,
                    text=self.document.read_text(),
                    ttft_ms=1,
                    total_ms=2000,
                    at_once=at_once,
                )
            )

    def study(self, *_: Any) -> Adaptability:
        self.asked.append("adaptability")
        change = {"way": Way.NONE, "seconds": None, "before": "", "after": ""}
        changes = tuple(Change.model_validate({"cell": cell, **change}) for cell in self.config.cells)
        return Adaptability(changes=changes, ingest_s=1)


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    found = World(tmp_path)
    monkeypatch.setattr(asking, "_ask", found.ask)
    monkeypatch.setattr(comparing, "wait_until_ready", lambda _: None)
    monkeypatch.setattr(comparing, "ingest", found.ingest)
    monkeypatch.setattr(comparing, "measure_adaptability", found.study)
    # Drawing takes most of a comparison's time here; test_report.py looks at what is drawn.
    monkeypatch.setattr(report, "drawings", lambda _: dict.fromkeys(("quality", "latency"), ""))
    return found


def test_what_a_changed_document_may_answer_otherwise_is_asked_anew(world: World) -> None:
    assert world.run()[1] == ["adaptability", "auto", "plain", "rag"]
    assert world.run()[1] == []
    world.document.write_text("31 days")
    assert world.run()[1] == ["adaptability", "auto", "rag"], "the plain cell reads no documents"


def test_documents_are_read_once_for_all_that_a_comparison_keeps_by_them(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    file_digest = hashlib.file_digest

    def counted(file: Any, name: str) -> Any:
        read.append(file.name)
        return file_digest(file, name)

    monkeypatch.setattr(hashlib, "file_digest", counted)
    world.run()
    assert read == [str(world.document)]


def test_another_service_is_asked_everything(world: World) -> None:
    everything = world.run()[1]
    assert world.run(base_url="http://elsewhere:8000/v1")[1] == everything


def test_answers_cost_what_they_cost_when_they_were_asked(world: World) -> None:
    alone, _ = world.run(concurrency=1)
    assert alone.costs[0].query_s == 2.0
    crowded, asked = world.run(concurrency=16)
    assert asked == []
    assert crowded.costs == alone.costs
    assert crowded.verdict == alone.verdict
    assert "and 1 questions in flight" in (world.config.output / "report.html").read_text()


def test_ingesting_costs_what_it_took_when_there_was_everything_to_do(world: World) -> None:
    def not_measured(results: Results) -> bool:
        return any(sentence.startswith("Ingesting") for sentence in results.not_measured)

    first, _ = world.run()
    again, _ = world.run()
    assert (first.measured.ingest_s, again.measured.ingest_s) == (40.0, 40.0)
    assert not not_measured(again)
    elsewhere, _ = world.run(output=world.config.output / "full")
    assert elsewhere.measured.ingest_s is None, "the collection was there: 3 s are those of doing nothing"
    assert not_measured(elsewhere)
    assert "ingesting not measured" in (world.config.output / "full" / "report.html").read_text()


EXAMPLE = Path(__file__).parents[3] / "examples" / "compare-handbook.yaml"


@pytest.mark.parametrize(
    ("override", "error", "message"),
    [
        (
            "tuning.config=examples/smolm2.yaml",
            ConfigError,
            r"tuning\.config: cannot read examples/smolm2\.yaml",
        ),
        ("adaptability.document=leaf.md", DataError, r"leaf\.md: No such file.*leave adaptability out"),
        ("adaptability.document=.", DataError, "leave adaptability out"),
        ("adaptability.find=27 weeks", DataError, r"leave\.md does not hold '27 weeks'"),
        ("adaptability.find=Every employee has 27 days", DataError, r"no row of .*train\.jsonl holds"),
        (
            "judge={model: m, base_url: 'https://judge.example/v1', api_key_env: NO_SUCH_KEY}",
            ConfigError,
            "NO_SUCH_KEY is not set",
        ),
    ],
)
def test_a_fault_of_the_configuration_is_told_before_anything_is_done(
    monkeypatch: pytest.MonkeyPatch, override: str, error: type[HamletError], message: str
) -> None:
    monkeypatch.chdir(EXAMPLE.parents[1])
    with pytest.raises(error, match=message):
        prepare(load_config(EXAMPLE, [override]))


def test_the_key_of_a_model_that_makes_the_rows_is_looked_for_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(EXAMPLE.parents[1])
    teacher = "making={base_url: 'https://teacher.example/v1', api_key_env: NO_SUCH_KEY}"
    with pytest.raises(ConfigError, match="NO_SUCH_KEY is not set"):
        prepare(load_config(EXAMPLE, ["training=", teacher]))


def test_rows_that_are_not_trained_on_again_need_not_state_the_fact(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(EXAMPLE.parents[1])
    once = ["adaptability.find=Every employee has 27 days", "adaptability.retrain=false"]
    assert prepare(load_config(EXAMPLE, once))


def test_a_document_that_cannot_be_read_is_named(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(hashlib, "file_digest", refuse)
    with pytest.raises(DataError, match=r"cannot read .*leave\.md: Permission denied; make it readable"):
        prepare(world.config)


def test_a_document_that_is_no_text_is_named(world: World) -> None:
    world.document.write_bytes(b"%PDF\xff")
    with pytest.raises(DataError, match=r"leave\.md is not UTF-8 text"):
        prepare(world.config)


def test_test_questions_in_the_trainings_own_rows_are_refused_too(world: World, tmp_path: Path) -> None:
    (tmp_path / "own.jsonl").write_text('{"prompt": "How many 3?", "completion": "27"}\n')
    (tmp_path / "run.yaml").write_text("data: {path: other.csv}\n")
    tuning = TuningConfig(config=tmp_path / "run.yaml", overrides=(f"data.path={tmp_path / 'own.jsonl'}",))
    with pytest.raises(DataError, match=r"own\.jsonl asks test questions: line 1 \(q3\)"):
        prepare(world.config.model_copy(update={"tuning": tuning}))


def test_a_model_that_is_not_served_is_told_before_anything_is_trained(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(_: ServiceConfig, requests: Sequence[Request], *__: Any) -> None:
        raise NotFound(f"no model {requests[0].model}", "cells")

    def train(*_: Any) -> tuple[str, float]:
        raise AssertionError("nothing may be trained")

    monkeypatch.setattr(asking, "_ask", refuse)
    config = world.config.model_copy(
        update={
            "cells": {"tuned": "{tuned}", "plain": "smolm2"},
            "tuning": TuningConfig(config=EXAMPLE.with_name("smollm2-handbook.yaml")),
            "adaptability": None,
        }
    )
    with pytest.raises(NotFound, match="no model smolm2"):
        compare(config, prepare(config), Silent(), train)


def test_a_study_that_no_question_is_of_is_refused_before_anything_is_trained(world: World) -> None:
    world.config.questions.write_text('{"id": "u", "question": "Why?", "kind": "unanswerable"}\n')
    with pytest.raises(DataError, match="taught and untaught questions, of which there are none"):
        prepare(world.config.model_copy(update={"data_dependency": DataDependencyConfig()}))
