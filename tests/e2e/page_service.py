"""The application behind the page, over real HTTP and without Ray: scripted models and training, real everything else.

By hand, to look at the page: `python tests/e2e/page_service.py [PORT]`
"""

from __future__ import annotations

import json
import math
import os
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI

from cluster.database import open_database
from cluster.fine_tuning_jobs import FineTuningJobs
from cluster.launcher import Run, RunState
from cluster.registry import Registry
from cluster.reports import Reports, ReportStatus
from cluster.settings import settings
from serving import page
from serving.config import FineTuningConfig, ServingConfig
from serving.engine import Adapter, CallDelta
from serving.platform import Platform
from serving.scripted_engine import TOOL_TEMPLATE, Token, WordTokenizer
from serving.scripted_parts import ScriptedApplication, ScriptedRetriever, scripted_card, scripted_passage
from serving.training_commands import TrainingCommands

REPOSITORY = Path(__file__).parents[2]
SCRIPTED_TRAINING = REPOSITORY / "tests/integration/serving/scripted_training.py"
HANDBOOK = REPOSITORY / "examples/handbook"

NUM_STEPS = 60
REPORT = b"<!doctype html><title>Report</title>"

# What must be shown and never run, wherever a text comes from outside.
MARKUP = "<script>document.title='run'</script><img src=x onerror=\"document.title='run'\">"
PASSAGE = f"A hot lunch costs 4.70 euros, a salad 3.20 euros. {MARKUP}"
WORDS = {
    "read": "A hot lunch costs 4.70 euros [1]. Visitors sign in first [2].",
    "tuned": "A hot lunch in the canteen costs 4.70 euros.",
    "plain": f"Our canteen is a local institution. {MARKUP} Prices vary with the size of the plate.",
}

# A model that is given this function calls it, and tells its result.
WEATHER = {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}
CITY = f"Elsinore {MARKUP}"
RESULT = "18 degrees"


@dataclass
class PageService:
    """A running application and its parts."""

    url: str
    parts: ScriptedApplication


def scripted_application() -> ScriptedApplication:
    """Four ways that answer differently; files, jobs and models in SQL below HAMLET_HOME."""
    config = ServingConfig(fine_tuning=FineTuningConfig(launcher="local"))
    commands = TrainingCommands((sys.executable, str(SCRIPTED_TRAINING)))
    platform = Platform(config, open_database(), commands, ScriptedLauncher())
    parts = ScriptedApplication(
        config=config, platform=platform, tokenizer=WordTokenizer(template=TOOL_TEMPLATE)
    )
    models = Registry(platform.engine)
    models.register(scripted_card("ft:smollm2:acme:handbook:1"))
    models.promote("handbook", "ft:smollm2:acme:handbook:1")
    passages = [
        scripted_passage(1, PASSAGE, 0.71, f"canteen{MARKUP}.md"),
        scripted_passage(2, "Visitors sign in at the front desk.", 0.42, "security.md"),
    ]
    parts.retriever = ScriptedRetriever({"default": passages})

    def script(prompt: list[int], adapter: Adapter | None) -> list[Token]:
        shown = parts.tokenizer.decode(prompt)
        if "get_weather" in shown and RESULT not in shown:
            return ["I ask. ", CallDelta(0, "call_1", "get_weather", json.dumps({"city": CITY}))]
        reads = "passages" in shown
        text = WORDS["read" if reads else "tuned" if adapter else "plain"]
        return [f"{word} " for word in text.split(" ")]

    parts.engine.script = script
    parts.engine.features |= {"tools"}
    parts.engine.step_s = 0.01
    return parts


class ScriptedLauncher:
    """Trains in a thread, along curves that are made up; a comparison has its outcome at once.

    What is named `slow` goes on until it is stopped.
    """

    def __init__(self) -> None:
        self._stops: dict[str, threading.Event] = {}
        self._threads: dict[str, threading.Thread] = {}

    def start(self, name: str, command: Sequence[str]) -> None:
        if name in self._threads:
            return
        self._stops[name] = threading.Event()
        work = compare if name.startswith("eval-") else train
        self._threads[name] = threading.Thread(
            target=work, args=(command[-1], self._stops[name]), daemon=True
        )
        self._threads[name].start()

    def look(self, name: str) -> Run:
        if name not in self._threads:
            return Run(RunState.ABSENT)
        return Run(RunState.RUNNING) if self._threads[name].is_alive() else Run(RunState.ENDED, 0)

    def stop(self, name: str) -> None:
        self._stops[name].set()


def train(job_id: str, stop: threading.Event) -> None:
    """A job's course: metrics of each step, a checkpoint for each epoch, a model."""
    jobs = FineTuningJobs()
    job = jobs.get("default", job_id)
    if job.suffix == "slow":
        stop.wait(60)
        return
    model = f"ft:smollm2:acme:{job.suffix}:{job_id[-8:]}"
    for step in range(1, NUM_STEPS + 1):
        left = math.exp(-step / 18)
        data = {
            "step": step,
            "total_steps": NUM_STEPS,
            "train_loss": 2.4 * left + 0.1 * math.cos(step) * left,
        }
        data["train_mean_token_accuracy"] = 1 - 0.6 * left
        ends_epoch = step % (NUM_STEPS // 3) == 0
        data |= {"full_valid_loss": 2.1 * left + 0.25} if ends_epoch else {}
        jobs.post_event(job_id, f"Step {step}/{NUM_STEPS}", type="metrics", data=data)
        if ends_epoch:
            name = f"{model}:ckpt-step-{step}"
            jobs.add_checkpoint(
                job_id, step, name, {"full_valid_loss": data["full_valid_loss"]}, scripted_card(name)
            )
    jobs.succeed(job_id, scripted_card(model), trained_tokens=12_400)


def compare(report_id: str, _stop: threading.Event) -> None:
    """A comparison's course."""
    reports = Reports()
    report = reports.get(report_id)
    if report.name == "slow":
        reports.save(report.model_copy(update={"status": ReportStatus.RUNNING, "stage": "cell rag"}))
        return
    verdict = f"rag leads on facts of the documents {MARKUP if MARKUP in report.name else ''}"
    reports.finish(report.model_copy(update={"verdict": verdict}), REPORT, b"{}")


@contextmanager
def reading_files(parts: ScriptedApplication, answers_from_them: bool = True) -> Iterator[None]:
    """Search for real, with what reads the files of vector stores at work; answers from them, or as scripted."""
    scripted = parts.retriever
    parts.search_for_real()
    if not answers_from_them:
        parts.retriever = scripted
    stop = threading.Event()
    thread = threading.Thread(target=parts.worker().run, args=(stop,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(10)


@contextmanager
def running(parts: ScriptedApplication, port: int = 0) -> Iterator[PageService]:
    """Serve `parts` on 127.0.0.1."""
    with serving(parts.app, port) as url:
        yield PageService(url, parts)


@contextmanager
def page_alone() -> Iterator[str]:
    """Serve the page's files and nothing else."""
    app = FastAPI()
    app.include_router(page.router())
    with serving(app) as url:
        yield url


@contextmanager
def serving(app: Any, port: int = 0) -> Iterator[str]:
    """Serve an application in a thread."""
    with socket.create_server(("127.0.0.1", port)) as listener:
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1))
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(10)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as home:
        os.environ["HAMLET_HOME"] = home
        settings.cache_clear()
        application = scripted_application()
        with (
            reading_files(application, answers_from_them=False),
            running(application, int(sys.argv[1]) if len(sys.argv) > 1 else 8008) as service,
        ):
            sys.stdout.write(f"{service.url}\n")
            sys.stdout.flush()
            threading.Event().wait()
