"""Routers, training processes and heads killed by SIGKILL at random moments of uploads and jobs.

What was acknowledged is there afterwards, what had no answer and was asked for again is there once, every job has ended
in one way that is true, and no model is half registered. `NUM_KILLS` says how many there are, 30 by default.
"""

from __future__ import annotations

import os
import random
import shutil
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import openai
import psutil
import pytest
from routers import ROWS, Router, ended, until

from cluster.head import down, up
from cluster.head_record import is_living, processes, read_record
from cluster.ports import port_is_free
from cluster.settings import settings

NUM_KILLS = int(os.environ.get("NUM_KILLS", "30"))
SUFFIXES = ("ok", "ok", "fails", "cancelled")
# Six losses of one process end a job, after waits of 5, 10, … 80 s between its attempts.
END_DEADLINE_S = 600.0

pytestmark = [pytest.mark.soak, pytest.mark.timeout(60 * NUM_KILLS + 2 * END_DEADLINE_S)]


@dataclass(frozen=True)
class Asked:
    """A file and a job from it, made once under this number however often they are asked for."""

    number: int
    suffix: str


@dataclass
class Acknowledged:
    """Ids of what the API said it had, and what it was asked for without an answer."""

    files: set[str] = field(default_factory=set)
    jobs: set[str] = field(default_factory=set)
    cancelled: set[str] = field(default_factory=set)
    unanswered: list[Asked] = field(default_factory=list)
    repeated: int = 0

    def ask(self, client: openai.OpenAI, suffix: str) -> str | None:
        """The id of a job that is new, or None where no answer came. A job called `cancelled` is cancelled at once."""
        return self._ask(client, Asked(len(self.jobs) + len(self.unanswered), suffix))

    def ask_again(self, client: openai.OpenAI) -> None:
        """What had no answer."""
        unanswered, self.unanswered = self.unanswered, []
        self.repeated += len(unanswered)
        for asked in unanswered:
            self._ask(client, asked)

    def _ask(self, client: openai.OpenAI, asked: Asked) -> str | None:
        headers = {"Idempotency-Key": f"asked-{asked.number}"}
        try:
            file = client.files.create(
                file=("rows.jsonl", ROWS), purpose="fine-tune", extra_headers=headers
            ).id
            self.files.add(file)
            job = client.fine_tuning.jobs.create(
                model="smollm2",
                training_file=file,
                suffix=asked.suffix,
                metadata={"suffix": asked.suffix},
                extra_headers=headers,
            ).id
            if asked.suffix == "cancelled":
                with suppress(openai.ConflictError):  # asked again, it may have ended meanwhile
                    client.fine_tuning.jobs.cancel(job)
                    self.cancelled.add(job)
        except openai.APIConnectionError:
            self.unanswered.append(asked)
            return None
        self.jobs.add(job)
        return job


class Victims:
    """What may be killed, by its name, and is started again by `restore`. `killed` counts by name."""

    def __init__(self, home: Path, routers: list[Router], seed: int) -> None:
        self._home = home
        self._chance = random.Random(seed)
        self.routers = routers
        self.killed = Counter[str]()

    def kill(self, name: str) -> None:
        """Kill what has this name; it counts where there was any."""
        found = self._named(name)
        for victim in found:
            with suppress(psutil.NoSuchProcess):
                victim.kill()
        psutil.wait_procs([victim for victim in found if isinstance(victim, psutil.Process)], timeout=10)
        self.killed[name] += bool(found)

    def _named(self, name: str) -> Sequence[Router | psutil.Process]:
        if name == "router":
            return [self._chance.choice(self.routers)]
        if name == "driver":
            drivers = self.drivers()
            return [self._chance.choice(drivers)] if drivers else []
        if name == "machine":  # with all that runs on it
            return [*self.routers, *self.drivers()]
        record = read_record()
        return processes(record) if record is not None else []

    def restore(self) -> None:
        if read_record() is not None:
            up()
        for router in self.routers:
            if router.process is None:
                router.start()

    def drivers(self) -> list[psutil.Process]:
        """Processes of training runs over this home: the scripted training and whatever started it."""
        return [process for process in psutil.process_iter() if self._is_driver(process)]

    def _is_driver(self, process: psutil.Process) -> bool:
        with suppress(psutil.Error):
            words = process.cmdline()
            is_run = "run" in words and any(word.endswith("scripted_training.py") for word in words)
            return is_run and process.environ().get("HAMLET_HOME") == str(self._home) and is_living(process)
        return False


def survive(victims: Victims, names: tuple[str, ...], seed: int) -> Acknowledged:
    """Ask while NUM_KILLS times one of `names` is killed; what was acknowledged."""
    acknowledged, chance = Acknowledged(), random.Random(seed)
    began = time.monotonic()
    client = victims.routers[0].client
    first = acknowledged.ask(client, "ok")
    assert first is not None
    ended(client, first)
    undisturbed_s = time.monotonic() - began
    while victims.killed.total() < NUM_KILLS:
        # From a thread of its own, so that it may happen within a request, and up to the end of its job.
        killer = threading.Timer(chance.uniform(0, 1.5 * undisturbed_s), victims.kill, [chance.choice(names)])
        killer.start()
        while killer.is_alive():
            acknowledged.ask(chance.choice(victims.routers).client, chance.choice(SUFFIXES))
            killer.join(chance.uniform(0, undisturbed_s / 2))
        victims.restore()
        acknowledged.ask_again(chance.choice(victims.routers).client)
    return acknowledged


def check(client: openai.OpenAI, acknowledged: Acknowledged) -> Counter[str]:
    """Everything is there and whole; how often each way of ending came up."""
    jobs = [ended(client, job.id, END_DEADLINE_S) for job in client.fine_tuning.jobs.list()]
    assert not acknowledged.unanswered
    assert acknowledged.files
    assert {job.id for job in jobs} == acknowledged.jobs
    models = {model.id for model in client.models.list() if model.id.startswith("ft:")}
    checkpoints = set()
    for job in jobs:
        check_end(client, job, job.id in acknowledged.cancelled)
        checkpoints |= {
            found.fine_tuned_model_checkpoint for found in client.fine_tuning.jobs.checkpoints.list(job.id)
        }
    assert models == checkpoints | {job.fine_tuned_model for job in jobs if job.fine_tuned_model}
    results = {result for job in jobs for result in job.result_files}
    kept = {file.id: client.files.content(file.id).read() for file in client.files.list()}
    assert kept.keys() == acknowledged.files | results
    assert all(kept[result].startswith(b"step,total_steps") for result in results)
    assert all(content == ROWS for file, content in kept.items() if file not in results)
    return Counter(job.status for job in jobs)


def check_end(client: openai.OpenAI, job: Any, was_cancelled: bool) -> None:
    """A job's end is what happened to it, told once, and it has a model just where it succeeded."""
    suffix, has_succeeded = job.metadata["suffix"], job.status == "succeeded"
    assert bool(job.fine_tuned_model) == has_succeeded
    assert len(job.result_files) == has_succeeded
    if was_cancelled:
        assert job.status == "cancelled"
    elif job.status == "failed":
        was_lost = job.error.message.startswith("training ended without a model")
        assert was_lost or (suffix, job.error.code) == ("fails", "diverged"), job.error
    elif job.status == "cancelled":
        assert suffix == "cancelled"
    else:
        assert suffix != "fails"
    messages = [event.message for event in client.fine_tuning.jobs.list_events(job.id)]
    ends = ("New fine-tuned model", "The job was cancelled", "training ended", "the loss is not a number")
    assert sum(message.startswith(ends) for message in messages) == 1


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_kills_of_routers_and_training_lose_nothing(
    routers: Callable[..., Router], home: Path, database: str, request: pytest.FixtureRequest
) -> None:
    """One router on SQLite, two on PostgreSQL."""
    variables = {} if database == "sqlite" else {"HAMLET_DATABASE_URL": request.getfixturevalue("postgres")}
    victims = Victims(home, [routers(**variables) for _ in range(1 if database == "sqlite" else 2)], seed=1)
    acknowledged = survive(victims, ("router", "driver", "machine"), seed=2)
    report(database, victims, acknowledged, check(victims.routers[0].client, acknowledged))
    assert not (home / "doubles").exists(), "a job ran twice at a time"
    until(lambda: not victims.drivers())


@pytest.fixture
def head_home(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A home with a Ray head of its own; short, as the names of Ray's sockets must be."""
    folder = Path(tempfile.mkdtemp(prefix="hk-"))
    monkeypatch.setenv("HAMLET_HOME", str(folder))
    monkeypatch.setenv("HAMLET_NUM_CPUS", "4")
    for variable in ("HAMLET_RAY_PORT", "HAMLET_DASHBOARD_PORT"):
        monkeypatch.setenv(variable, str(lasting_port()))
    settings.cache_clear()
    try:
        up()
        yield folder
    finally:
        down()
        shutil.rmtree(folder, ignore_errors=True)


def lasting_port() -> int:
    """A free port that is still free after a kill: none that the kernel gives to outgoing connections.

    A router that looks for a killed head on such a port may connect to itself, and then holds the port.
    """
    return next(port for port in random.sample(range(20_000, 32_000), 100) if port_is_free("127.0.0.1", port))


def test_kills_of_the_head_and_of_jobs_on_it_lose_nothing(head_home: Path) -> None:
    router = Router(head_home, "ray").start()
    try:
        victims = Victims(head_home, [router], seed=3)
        acknowledged = survive(victims, ("router", "driver", "head"), seed=4)
        report("ray", victims, acknowledged, check(router.client, acknowledged))
        assert not (head_home / "doubles").exists(), "a job ran twice at a time"
    finally:
        router.kill()


def report(where: str, victims: Victims, acknowledged: Acknowledged, ends: Counter[str]) -> None:
    print(f"{where}: killed {dict(victims.killed)}, repeated {acknowledged.repeated}, jobs {dict(ends)}")  # noqa: T201
