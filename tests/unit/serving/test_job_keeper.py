"""The queue of fine-tuning jobs as its keeper turns it, with a launcher that only remembers."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from cluster.files import Files
from cluster.fine_tuning_jobs import FineTuningJobs
from cluster.fine_tuning_records import FineTuningJob, JobRequest, JobStatus
from cluster.launcher import Run, RunState
from serving.config import FineTuningConfig
from serving.fine_tuning_objects import estimated_finish
from serving.job_keeper import CHECK_AGAIN_S, CHECK_LIMIT_S, JobKeeper
from serving.training_commands import TrainingCommands


class Clock:
    """No two looks at it see the same time, by which jobs are put in order."""

    now = 1_000_000.0

    def __call__(self) -> float:
        self.now += 0.001
        return self.now


class RememberingLauncher:
    def __init__(self) -> None:
        self.started: list[str] = []

    def start(self, name: str, command: Sequence[str]) -> None:
        self.started.append(name)

    def look(self, name: str) -> Run:
        return Run(RunState.RUNNING if name in self.started else RunState.ABSENT)

    def stop(self, name: str) -> None:
        self.started.remove(name)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def jobs(clock: Clock) -> FineTuningJobs:
    return FineTuningJobs(clock=clock)


@pytest.fixture
def keeper(jobs: FineTuningJobs, clock: Clock) -> JobKeeper:
    config = FineTuningConfig(launcher="local", max_running=1, max_wait_s=60)
    return JobKeeper(jobs, Files(), RememberingLauncher(), TrainingCommands(), config, clock)


def queued(jobs: FineTuningJobs, tenant: str = "us") -> FineTuningJob:
    job = jobs.create(tenant, JobRequest("smollm2", "file-1", None, {}, {}, None, 1, None, {}))
    jobs.queue.add(job.id, {})
    return jobs.get(tenant, job.id)


def messages(jobs: FineTuningJobs, job: FineTuningJob) -> list[str]:
    return [event.message for event in jobs.events(job.tenant, job.id, limit=100).data]


def test_a_job_that_has_to_wait_says_why_once(jobs: FineTuningJobs, keeper: JobKeeper) -> None:
    first, second = queued(jobs), queued(jobs, "them")
    keeper.keep()
    keeper.keep()
    told = [message for message in messages(jobs, second) if "waits in the queue" in message]
    assert told == [
        "The job waits in the queue: as many jobs train as may at a time (1, fine_tuning.max_running)"
    ]
    waiting = jobs.get("them", second.id)
    assert (waiting.status, f"The job waits in the queue: {waiting.waits_for}") == (JobStatus.QUEUED, told[0])
    assert not any("waits" in message for message in messages(jobs, first))
    jobs.cancel("us", first.id)
    for _ in range(3):  # its process is stopped, seen to be gone, and leaves its place
        keeper.keep()
    begun = jobs.get("them", second.id)
    assert (begun.status, begun.waits_for) == (JobStatus.RUNNING, None)


def test_a_job_that_waits_longer_than_it_may_fails_with_the_reason(
    jobs: FineTuningJobs, keeper: JobKeeper, clock: Clock
) -> None:
    running, waiting = queued(jobs), queued(jobs)
    keeper.keep()
    clock.now += 59
    keeper.keep()
    assert jobs.get("us", waiting.id).status is JobStatus.QUEUED
    clock.now += 2
    keeper.keep()
    failed = jobs.get("us", waiting.id)
    assert failed.status is JobStatus.FAILED
    assert failed.error is not None
    assert failed.error["code"] == "queue_timeout"
    assert "waited 61 s" in failed.error["message"]
    assert "fine_tuning.max_running" in failed.error["message"]
    assert jobs.get("us", running.id).status is JobStatus.RUNNING


class BreakingLauncher(RememberingLauncher):
    """Has a fault that shows in what is started under some names."""

    broken = "none"

    def look(self, name: str) -> Run:
        if name.startswith(self.broken):
            raise ValueError("nobody has thought of this")
        return super().look(name)


def test_a_job_that_breaks_what_follows_it_holds_up_no_other(jobs: FineTuningJobs, clock: Clock) -> None:
    launcher, config = BreakingLauncher(), FineTuningConfig(launcher="local", max_running=2)
    keeper = JobKeeper(jobs, Files(), launcher, TrainingCommands(), config, clock)
    first, second = queued(jobs), queued(jobs, "them")
    keeper.keep()
    launcher.broken = first.id
    launcher.started.remove(f"{second.id}-1")  # killed
    clock.now += 60
    keeper.keep()
    assert jobs.get("them", second.id).attempt == 2


def test_the_end_of_a_job_is_estimated_by_its_speed_while_that_is_known(
    jobs: FineTuningJobs, keeper: JobKeeper, clock: Clock
) -> None:
    job = queued(jobs)
    keeper.keep()
    clock.now += 100
    jobs.post_event(job.id, "a step", type="metrics", data={"step": 90, "total_steps": 100})
    assert estimated_finish(jobs.get("us", job.id)) == pytest.approx(clock.now + 10 * 100 / 90, abs=0.1)
    jobs.pause("us", job.id)
    keeper.keep()  # its process is stopped,
    keeper.keep()  # and seen to be gone
    jobs.resume("us", job.id)
    keeper.keep()
    clock.now += 10
    jobs.post_event(job.id, "a step", type="metrics", data={"step": 91, "total_steps": 100})
    resumed = jobs.get("us", job.id)
    assert (resumed.attempt, resumed.step) == (2, 91)
    assert estimated_finish(resumed) is None  # 91 steps in 10 s it is not


def test_a_pause_does_not_count_as_waiting(jobs: FineTuningJobs, keeper: JobKeeper, clock: Clock) -> None:
    queued(jobs)
    waiting = queued(jobs)
    keeper.keep()
    jobs.pause("us", waiting.id)
    clock.now += 1000
    keeper.keep()
    jobs.resume("us", waiting.id)
    keeper.keep()
    assert jobs.get("us", waiting.id).status is JobStatus.QUEUED


def test_a_job_that_was_begun_meanwhile_is_not_given_up(jobs: FineTuningJobs) -> None:
    job = queued(jobs)
    assert jobs.queue.start(job.id, job.attempt)
    assert not jobs.queue.give_up(job.id, "it waited")
    assert not jobs.queue.tell_wait(job.id, "no room")
    assert jobs.get("us", job.id).status is JobStatus.RUNNING


def keeper_checking_by(
    program: str, jobs: FineTuningJobs, clock: Clock, expires_at: float | None = None
) -> tuple[JobKeeper, FineTuningJob]:
    """A keeper whose checks are made by a program in Python, and a job that waits for its check."""
    commands, files = TrainingCommands((sys.executable, "-S", "-c", program)), Files(clock=clock)
    config = FineTuningConfig(launcher="local")
    file = files.add(files.stored("us", "rows.jsonl", "fine-tune", b"row", expires_at=expires_at))
    job = jobs.create("us", JobRequest("smollm2", file.id, None, {}, {"output": {}}, None, 1, None, {}))
    return JobKeeper(jobs, files, RememberingLauncher(), commands, config, clock), job


DOWN = {"type": "service_unavailable", "code": "hub_unreachable", "message": "the hub does not answer"}


@pytest.mark.parametrize(
    ("ending", "status"),
    [
        (f"print({json.dumps({'error': DOWN})!r}); sys.exit(2)", JobStatus.VALIDATING_FILES),
        ("os.kill(os.getpid(), 9)", JobStatus.VALIDATING_FILES),
        ("sys.exit(137)", JobStatus.VALIDATING_FILES),
        ("sys.exit(2)", JobStatus.FAILED),
        ("sys.exit('error: too large')", JobStatus.FAILED),
        ("print('{}')", JobStatus.QUEUED),
    ],
)
def test_only_a_verdict_ends_the_checking_of_a_job(
    jobs: FineTuningJobs, clock: Clock, ending: str, status: JobStatus
) -> None:
    keeper, job = keeper_checking_by(f"import os, sys; {ending}", jobs, clock)
    keeper.validate()
    assert jobs.get("us", job.id).status is status


@pytest.mark.parametrize(("ending", "code"), [("2", "invalid_training_file"), ("1", "internal_error")])
def test_a_fault_of_the_check_is_not_blamed_on_the_file(
    jobs: FineTuningJobs, clock: Clock, ending: str, code: str
) -> None:
    keeper, job = keeper_checking_by(f"import sys; sys.exit({ending})", jobs, clock)
    keeper.validate()
    error = jobs.get("us", job.id).error
    assert error is not None
    assert error["code"] == code


def test_a_check_that_cannot_be_made_is_made_again_now_and_then_and_not_for_ever(
    jobs: FineTuningJobs, clock: Clock, tmp_path: Path
) -> None:
    tries = tmp_path / "tries"
    program = f"import os; print('.', end='', file=open({str(tries)!r}, 'a')); os.kill(os.getpid(), 9)"
    keeper, job = keeper_checking_by(program, jobs, clock)
    for seconds, num_tries in ((0, 1), (1, 1), (CHECK_AGAIN_S, 2), (CHECK_LIMIT_S, 3)):
        assert jobs.get("us", job.id).status is JobStatus.VALIDATING_FILES
        clock.now += seconds
        keeper.validate()
        assert len(tries.read_text()) == num_tries
    ended = jobs.get("us", job.id)
    assert (ended.status, ended.error and ended.error["code"]) == (JobStatus.FAILED, "check_timeout")


@pytest.mark.parametrize(("is_deleted", "status"), [(False, JobStatus.QUEUED), (True, JobStatus.FAILED)])
def test_a_file_that_expires_while_its_job_is_checked_is_kept_for_it_but_a_deleted_one_is_not(
    jobs: FineTuningJobs, clock: Clock, is_deleted: bool, status: JobStatus
) -> None:
    keeper, job = keeper_checking_by("print('{}')", jobs, clock, expires_at=clock.now + 5)
    if is_deleted:
        Files(clock=clock).delete("us", job.training_file)
    clock.now += 10
    keeper.validate()
    assert jobs.get("us", job.id).status is status
