"""`/v1/evaluations` and `/reports` over a launcher that only remembers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from fastapi import FastAPI, Request
from starlette.testclient import TestClient

from cluster.blobs import read_blob
from cluster.errors import HamletError, Unavailable
from cluster.files import Files
from cluster.launcher import Run, RunState
from cluster.reports import Report, Reports, ReportStatus, new_report_id
from cluster.settings import settings
from serving import evaluations_api
from serving.config import ServingConfig
from serving.error_handlers import on_hamlet_error


@dataclass
class PlayedLauncher:
    started: dict[str, list[str]] = field(default_factory=dict)
    run: Run = field(default_factory=lambda: Run(RunState.RUNNING))
    failure: HamletError | None = None
    looked_at: list[str] = field(default_factory=list)
    before_look: Callable[[], object] = lambda: None

    def start(self, name: str, command: Sequence[str]) -> None:
        if self.failure is not None:
            raise self.failure
        self.started[name] = list(command)

    def look(self, name: str) -> Run:
        self.looked_at.append(name)
        self.before_look()
        if self.failure is not None:
            raise self.failure
        return self.run

    def stop(self, name: str) -> None: ...


@dataclass
class World:
    client: TestClient
    launcher: PlayedLauncher
    questions: str

    def create(self, **changes: Any) -> Any:
        body = {"name": "mine", "questions": self.questions, "cells": {"rag": "m+rag"}} | changes
        return self.client.post("/v1/evaluations", json=body, headers={"x-tenant": "acme"})

    def get(self, path: str, tenant: str = "acme") -> Any:
        return self.client.get(path, headers={"x-tenant": tenant})


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setenv("HAMLET_HOME", str(tmp_path / "home"))
    settings.cache_clear()
    files, launcher = Files(), PlayedLauncher()
    source = tmp_path / "questions.jsonl"
    source.write_text("{}\n")
    app = FastAPI()

    @app.middleware("http")
    async def tenant(request: Request, call_next: Any) -> Any:
        request.state.tenant = request.headers["x-tenant"]
        return await call_next(request)

    app.add_exception_handler(HamletError, on_hamlet_error)
    app.include_router(evaluations_api.router(files, launcher, ServingConfig()))
    file = files.add(files.stored("acme", "questions.jsonl", "evals", source))
    return World(TestClient(app), launcher, file.id)


def test_a_comparison_is_started_as_a_job_with_the_callers_file(world: World) -> None:
    created = world.create(weights={"customization": 1.0}).json()
    assert created["status"] == "queued"
    (command,) = world.launcher.started.values()
    assert command[:4] == ["python", "-m", "evaluation", "compare"]
    assert command[-4:] == ["--project", "acme", "--report", created["id"]]
    config = yaml.safe_load(read_blob(command[4]) or b"")
    assert config["questions"].startswith("/"), "the file's place in storage"
    assert config["cells"] == {"rag": "m+rag"}
    assert world.get(f"/v1/evaluations/{created['id']}").json()["name"] == "mine"
    assert [found["id"] for found in world.get("/v1/evaluations").json()["data"]] == [created["id"]]


def test_a_path_of_the_server_or_a_file_of_another_is_no_file(world: World) -> None:
    assert world.create(questions="/etc/passwd").status_code == 404
    for name in ("questions", "training"):
        assert world.create(**{name: "file-0"}).json()["error"]["param"] == name
    assert world.create(documents="/etc").status_code in (400, 422)
    body = {"questions": world.questions, "cells": {"rag": "m+rag"}}
    other = world.client.post("/v1/evaluations", json=body, headers={"x-tenant": "other"})
    assert other.status_code == 404
    assert world.launcher.started == {}


def test_another_tenant_sees_nothing_of_it(world: World) -> None:
    report_id = world.create().json()["id"]
    for path in (
        f"/v1/evaluations/{report_id}",
        f"/v1/evaluations/{report_id}/results",
        f"/reports/{report_id}",
    ):
        assert world.get(path, "other").status_code == 404
    assert world.get("/v1/evaluations", "other").json()["data"] == []
    assert report_id not in world.get("/reports", "other").text


@pytest.mark.parametrize(
    ("run", "told"),
    [
        (Run(RunState.ENDED, 1, "error: no such model"), "it ended with exit code 1: no such model"),
        (Run(RunState.ENDED), "it was killed"),
    ],
)
def test_a_job_that_ended_without_a_word_is_called_failed_wherever_it_is_shown(
    world: World, run: Run, told: str
) -> None:
    report_id = world.create().json()["id"]
    world.launcher.run = run
    listed = world.get("/v1/evaluations").json()["data"]
    assert [(found["status"], found["error"]) for found in listed] == [("failed", told)]
    assert world.get(f"/v1/evaluations/{report_id}").json() == listed[0]
    assert "<td>failed</td>" in world.get("/reports").text


def test_a_failure_is_kept_when_ray_has_forgotten_the_job_and_nobody_asks_for_it_again(world: World) -> None:
    report_id = world.create().json()["id"]
    world.launcher.run = Run(RunState.ENDED, 1)
    world.get("/v1/evaluations")
    world.launcher.run = Run(RunState.ABSENT)
    assert world.get(f"/v1/evaluations/{report_id}").json()["status"] == "failed"
    assert world.launcher.looked_at == [report_id]


def test_an_end_that_the_job_tells_while_it_is_looked_for_is_the_end(world: World) -> None:
    report = Report(id=world.create().json()["id"], tenant="acme", name="mine")
    told = report.model_copy(update={"status": ReportStatus.FAILED, "error": "its own words"})
    world.launcher.before_look = lambda: Reports().save(told)
    world.launcher.run = Run(RunState.ENDED, 2, "error: the log's last line")
    assert world.get(f"/v1/evaluations/{report.id}").json()["error"] == "its own words"


def test_evaluations_are_shown_as_they_last_were_while_nobody_can_look_after_their_jobs(world: World) -> None:
    report_id = world.create().json()["id"]
    world.launcher.failure = Unavailable("Ray does not answer")
    (listed,) = world.get("/v1/evaluations").json()["data"]
    assert listed == world.get(f"/v1/evaluations/{report_id}").json()
    assert listed["status"] == "queued"


def test_a_job_that_cannot_be_started_leaves_a_failed_evaluation(world: World) -> None:
    world.launcher.failure = Unavailable("Ray does not answer")
    assert world.create().status_code == 503
    (found,) = world.get("/v1/evaluations").json()["data"]
    assert found["status"] == "failed"


def test_a_finished_report_is_a_page_in_which_nothing_may_run(world: World) -> None:
    reports = Reports()
    report = Report(id=new_report_id(), tenant="acme", name="<script>", verdict="rag")
    reports.save(report)
    assert world.get(f"/reports/{report.id}").status_code == 404
    reports.finish(report, b"<!doctype html>page", b'{"winner": "rag"}')
    page = world.get(f"/reports/{report.id}")
    assert page.text.endswith("page")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    index = world.get("/reports").text
    assert f'href="/reports/{report.id}"' in index
    assert "<script>" not in index
    assert world.get(f"/v1/evaluations/{report.id}/results").json() == {"winner": "rag"}
    assert world.get(f"/v1/evaluations/{report.id}").json()["status"] == ReportStatus.SUCCEEDED
