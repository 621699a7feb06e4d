from __future__ import annotations

from typing import Any

import pytest

from cluster.fine_tuning_records import FineTuningJob, JobStatus, Process, QueuedJob
from cluster.launcher import Run, RunState
from serving.job_policy import Step, next_step, reason_of, reason_to_wait, startable

RUNNING, ABSENT = Run(RunState.RUNNING), Run(RunState.ABSENT)
KILLED, FAULTY, AWAY = Run(RunState.ENDED), Run(RunState.ENDED, 1, "error: no"), Run(RunState.ENDED, 2)


def _job(**changes: Any) -> FineTuningJob:
    values: dict[str, Any] = dict.fromkeys(FineTuningJob.__dataclass_fields__)
    values |= {
        "tenant": "us",
        "status": JobStatus.RUNNING,
        "process": Process.LIVE,
        "num_losses": 0,
        "started_at": 1.0,
    }
    return FineTuningJob(**values | changes)


def _queued(id: str = "1", tenant: str = "us", process: Process = Process.NONE) -> QueuedJob:
    return QueuedJob(id, tenant, process, attempt=0, created_at=1.0, queued_at=1.0, waits_for=None)


@pytest.mark.parametrize(
    ("changes", "run", "step"),
    [
        ({}, RUNNING, Step.NOTHING),
        ({"process": Process.STARTING}, ABSENT, Step.LAUNCH),
        ({"process": Process.STARTING}, RUNNING, Step.LAUNCH),  # to note that it lives
        ({}, ABSENT, Step.RETRY),
        ({}, KILLED, Step.RETRY),
        ({}, AWAY, Step.RETRY),
        ({}, FAULTY, Step.FAIL),
        ({}, Run(RunState.ENDED, 0), Step.FAIL),
        ({"num_losses": 3}, KILLED, Step.FAIL),
        ({"started_at": 98.0}, KILLED, Step.NOTHING),  # not so soon
        ({"status": JobStatus.CANCELLED}, RUNNING, Step.STOP),
        ({"status": JobStatus.PAUSED}, RUNNING, Step.STOP),
        ({"status": JobStatus.QUEUED}, RUNNING, Step.STOP),  # resumed before it had stopped
        ({"status": JobStatus.CANCELLED}, KILLED, Step.SETTLE),
        ({"status": JobStatus.SUCCEEDED}, Run(RunState.ENDED, 0), Step.SETTLE),
        ({"status": JobStatus.SUCCEEDED, "finished_at": 99.0}, RUNNING, Step.NOTHING),  # it is leaving
        ({"status": JobStatus.SUCCEEDED, "finished_at": 9.0}, RUNNING, Step.STOP),
    ],
)
def test_each_state_of_job_and_process_has_one_next_step(
    changes: dict[str, Any], run: Run, step: Step
) -> None:
    assert next_step(_job(**changes), run, max_losses=3, now=100.0) is step


def test_a_tenant_at_its_limit_holds_up_nobody_behind_it() -> None:
    queued = [_queued(name, tenant=name[0]) for name in ("a1", "a2", "b1", "c1")]
    busy = [_job(id="a0", tenant="a")]
    assert [job.id for job in startable(queued, busy, 4, 2)] == ["a1", "b1", "c1"]
    assert [job.id for job in startable(queued, busy, 2, 1)] == ["b1"]
    assert startable(queued, busy, 1, 9) == []


def test_the_reason_of_an_end_is_told_in_a_few_words() -> None:
    assert reason_of(FAULTY) == "it ended with exit code 1: no"
    assert reason_of(KILLED) == "it was killed"
    assert "no longer knows" in reason_of(ABSENT)


def test_a_queued_job_waits_for_the_cluster_for_its_project_or_for_its_own_process() -> None:
    queued = _queued()
    ours, theirs = _job(), _job(tenant="them")
    assert reason_to_wait(queued, [theirs], max_running=2, max_per_tenant=1) is None
    reasons = [
        reason_to_wait(queued, [ours, theirs], 2, 2),
        reason_to_wait(queued, [ours], 2, 1),
        reason_to_wait(_queued(process=Process.LIVE), [], 2, 1),
    ]
    for reason, word in zip(reasons, ("max_running)", "max_running_per_tenant)", "pause"), strict=True):
        assert reason is not None
        assert word in reason
