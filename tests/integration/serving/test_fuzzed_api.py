"""Schemathesis against the application's own OpenAPI document, over real HTTP and a real database.

It makes requests that the document allows, and such that it forbids, for every operation, and follows ids from
answers that made something to requests that read, change and delete it. Models and training are scripted.
"""

from __future__ import annotations

import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from cluster.api_keys import ApiKeys
from cluster.audit_log import AuditLog
from cluster.cards import ModelKind
from cluster.files import Files
from cluster.launcher import Run, RunState
from cluster.registry import Registry
from cluster.settings import settings
from serving.authentication import Gate, Keyring
from serving.config import FineTuningConfig, ServingConfig
from serving.platform import Platform
from serving.scripted_parts import ScriptedApplication, scripted_card
from serving.training_commands import TrainingCommands

TENANT = "fuzzed"
TUNED = "ft:smollm2:acme:handbook:1a2b3c4d"
PAIRS = "ft:minilm:acme:paraphrase:1a2b3c4d"
START_LIMIT_S = 30.0
# What the document cannot tell: which models and files there are. Schemathesis learns all else from answers.
CONFIG = """
continue-on-failure = true
request-timeout = 20
warnings = false
[dictionaries]
models.values = ["smollm2", "smollm2+rag", "auto", "minilm", "tuned", "TUNED", "PAIRS"]
files.values = ["FILE_ID"]
[parameters]
"body.model" = { dictionary = "models", probability = 0.8 }
"body.training_file" = { dictionary = "files", probability = 0.8 }
"body.questions" = { dictionary = "files", probability = 0.8 }
[checks]
# What the document allows may be refused for its meaning: a context that is too short, a state that does not fit.
positive_data_acceptance.enabled = false
[[operations]]
include-method = "POST"
# The 404 may be that of another thing, which the body names.
checks.ensure_resource_availability.enabled = false
"""


class PlayedLauncher:
    """Runs that begin and never end."""

    def start(self, name: str, command: Any) -> None: ...

    def look(self, name: str) -> Run:
        return Run(RunState.RUNNING)

    def stop(self, name: str) -> None: ...


class PlayedTraining(TrainingCommands):
    """Answers at once. The real commands start a process of some seconds for each question."""

    def validate(self, path: Path, filename: str) -> dict[str, Any]:
        return {"rows": len(path.read_bytes().splitlines()), "warnings": [], "statistics": {}}

    def plan(
        self, config: Mapping[str, Any], price_per_hour: float | None = None, probe: bool = True
    ) -> dict[str, Any]:
        return {"steps": 3, "train_seconds": 3.0}


@dataclass(frozen=True)
class Served:
    world: ScriptedApplication
    base_url: str
    secret: str
    file_id: str

    def fuzz(self, folder: Path, *options: str) -> None:
        """Run Schemathesis; its whole report is the message of a failure."""
        config = folder / "schemathesis.toml"
        named = {"TUNED": TUNED, "PAIRS": PAIRS, "FILE_ID": self.file_id}
        config.write_text(re.sub("|".join(named), lambda match: named[match[0]], CONFIG))
        command = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(config), "run"]
        command += [
            f"{self.base_url}/openapi.json",
            "--header",
            f"Authorization: Bearer {self.secret}",
            *options,
        ]
        done = subprocess.run(command, capture_output=True, text=True, cwd=folder)
        assert done.returncode == 0, done.stdout + done.stderr

    def statuses(self) -> dict[int, int]:
        """Finished requests by status."""
        counted: dict[int, int] = {}
        for (name, *labels), number in self.world.metrics.counts.items():
            if name == "requests":
                counted[int(labels[1])] = counted.get(int(labels[1]), 0) + number
        return counted

    def assert_sound(self, num_requests: int) -> None:
        """That so many were answered, none by a fault of ours, and that it still answers."""
        statuses = self.statuses()
        assert sum(statuses.values()) >= num_requests
        assert max(statuses) < 500, statuses
        assert statuses[200] > num_requests / 8, statuses  # not only refusals
        body = {"model": "smollm2", "messages": [{"role": "user", "content": "Hi"}]}
        with httpx.Client(base_url=self.base_url, timeout=5) as client:
            assert client.get("/healthz").status_code == 200
            answer = client.post(
                "/v1/chat/completions", json=body, headers={"authorization": f"Bearer {self.secret}"}
            )
        assert answer.json()["choices"][0]["message"]["content"]


def application() -> tuple[ScriptedApplication, str, str]:
    """The application with a key, a training file and registered models; the key's secret and the file's id."""
    config = ServingConfig(fine_tuning=FineTuningConfig(launcher="local"))
    platform = replace(Platform.of(config, PlayedTraining()), launcher=PlayedLauncher())
    world = ScriptedApplication(config=config, platform=platform)
    world.search_for_real()
    keys = ApiKeys(platform.engine)
    _, secret = keys.create(TENANT, ["admin"])
    world.gate = Gate(Keyring(keys.list), audit=AuditLog(platform.engine).add)
    files = Files(platform.engine)
    rows = files.stored(TENANT, "rows.jsonl", "fine-tune", b"{}\n" * 20, details={"rows": 20})
    file = files.add(rows)
    models = Registry(platform.engine)
    models.register(scripted_card(TUNED), TENANT)
    pairs = {
        "kind": ModelKind.CLASSIFIER,
        "base_model": "builtin:minilm",
        "is_adapter": False,
        "lora_rank": None,
        "labels": ("different", "equivalent"),
        "is_pair": True,
    }
    models.register(scripted_card(PAIRS).model_copy(update=pairs), TENANT)
    models.promote("tuned", TUNED, TENANT)
    return world, secret, file.id


@pytest.fixture(params=["sqlite", "postgresql"])
def served(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    """The application over each database, on a free port."""
    if request.param == "postgresql":
        monkeypatch.setenv("HAMLET_DATABASE_URL", request.getfixturevalue("postgres"))
        settings.cache_clear()
    world, secret, file_id = application()
    app = world.app
    app.openapi()  # made now, as Schemathesis waits for the document for 10 s only
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="critical"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        deadline = time.monotonic() + START_LIMIT_S
        while not server.started:
            assert time.monotonic() < deadline, "the server does not start"
            time.sleep(0.02)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield Served(world, f"http://127.0.0.1:{port}", secret, file_id)
    finally:
        server.should_exit = True
        thread.join()


def test_no_request_breaks_the_api(served: Served, tmp_path: Path) -> None:
    """Some hundred requests, the same ones each time."""
    served.fuzz(tmp_path, "--phases", "fuzzing,stateful", "--max-examples", "3", "--seed", "20261125")
    served.assert_sound(num_requests=200)


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_no_request_of_thousands_breaks_the_api(served: Served, tmp_path: Path) -> None:
    """Others each time; the seed is in the report."""
    served.fuzz(tmp_path, "--max-examples", "60")
    served.assert_sound(num_requests=5000)
