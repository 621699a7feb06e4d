"""A run's events in a job's record, with the real store on SQLite and with one that fails."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError

from cluster.cards import ModelCard, ModelKind, Parity
from cluster.errors import DataError, Unavailable
from cluster.fine_tuning_jobs import FineTuningJobs
from cluster.fine_tuning_records import JobRequest, JobStatus
from cluster.registry import Registry
from training.job_record import JobRecord, describe, failure_recorded
from training.progress import AdapterEvent, EpochEvent, NoticeEvent, StepEvent

STEP = StepEvent(30, 120, 1, 0.5, 5e-5, 1.25, 10.0, 500.0, 12.0)
EPOCH = EpochEvent(1, 40, 0.6, 0.4, {"accuracy": 0.75})


def card(event: AdapterEvent) -> ModelCard:
    return ModelCard(
        id=f"ft:smollm2:hamlet:tuned:1234abcd:ckpt-step-{event.step}",
        kind=ModelKind.GENERATOR,
        base_model="builtin:smollm2",
        weights_uri=event.uri,
        max_length_tokens=64,
        config_sha256="0",
        data_sha256="0",
        code_version="0",
        metrics=event.metrics,
        parity=Parity(passed=True, max_metric_difference=0.0),
    )


@pytest.fixture
def jobs() -> FineTuningJobs:
    return FineTuningJobs()


@pytest.fixture
def job_id(jobs: FineTuningJobs) -> str:
    request = JobRequest("builtin:smollm2", "file-1", None, {}, {}, "tuned", 1, None, {})
    job = jobs.create("default", request)
    jobs.queue.add(job.id, {})
    jobs.queue.start(job.id, 0)
    return job.id


def told(jobs: FineTuningJobs, job_id: str) -> list[Any]:
    return list(reversed(jobs.events("default", job_id, limit=50).data))


def test_steps_epochs_and_notices_become_events_in_order(jobs: FineTuningJobs, job_id: str) -> None:
    record = JobRecord(job_id, card, jobs)
    before = len(told(jobs, job_id))
    for event in (NoticeEvent("resumed after epoch 1", level="warn"), STEP, EPOCH):
        record(event)
    events = told(jobs, job_id)[before:]
    assert [(event.type, event.level) for event in events] == [
        ("message", "warn"),
        ("metrics", "info"),
        ("metrics", "info"),
    ]
    assert events[1].message == "Step 30/120: training loss=0.5000"
    assert events[1].data["train_loss"] == 0.5
    assert events[2].data["full_valid_accuracy"] == 0.75
    job = jobs.get("default", job_id)
    assert (job.step, job.total_steps) == (40, 120)


def test_an_adapter_becomes_a_checkpoint_and_a_model_at_once_and_only_once(
    jobs: FineTuningJobs, job_id: str, tmp_path: Path
) -> None:
    record = JobRecord(job_id, card, jobs)
    event = AdapterEvent(40, str(tmp_path), {"validation_loss": 0.4})
    record(event)
    record(event)
    (checkpoint,) = jobs.checkpoints("default", job_id).data
    assert (checkpoint.step, checkpoint.metrics) == (40, {"validation_loss": 0.4})
    assert Registry().get(checkpoint.model_id).weights_uri == str(tmp_path)


class AwayJobs:
    """A store whose database is away for the first `failures` writes."""

    def __init__(self, failures: int) -> None:
        self.failures = failures
        self.messages: list[str] = []

    def post_event(self, _job_id: str, message: str, **_: Any) -> None:
        if self.failures:
            self.failures -= 1
            raise OperationalError("insert", {}, Exception("database is locked"))
        self.messages.append(message)


def test_events_that_a_lost_database_could_not_take_follow_in_order() -> None:
    jobs = AwayJobs(failures=2)
    record = JobRecord("ftjob-1", card, jobs)  # type: ignore[arg-type]
    for text in ("one", "two", "three"):
        record.say(text)
    assert jobs.messages == ["one", "two", "three"]


def test_a_database_that_stays_away_does_not_hold_up_the_end_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = iter([0.0, 10.0, 40.0])
    monkeypatch.setattr("training.job_record.time.sleep", lambda _seconds: None)
    record = JobRecord("ftjob-1", card, AwayJobs(99), lambda: next(clock))  # type: ignore[arg-type]
    record.say("lost")
    record.drain()
    assert next(clock, None) is None


def test_an_input_error_becomes_the_jobs_error_with_code_and_field(jobs: FineTuningJobs, job_id: str) -> None:
    with pytest.raises(DataError), failure_recorded(job_id, jobs):
        raise DataError("line 3: no label; label the row", "label")
    job = jobs.get("default", job_id)
    assert job.status is JobStatus.FAILED
    assert job.error == {
        "code": "invalid_file",
        "message": "line 3: no label; label the row",
        "param": "label",
    }


def test_a_fault_of_ours_ends_the_job_too(jobs: FineTuningJobs, job_id: str) -> None:
    with pytest.raises(KeyError), failure_recorded(job_id, jobs):
        raise KeyError("weights")
    assert jobs.get("default", job_id).error["message"] == "KeyError: 'weights'"


def test_what_may_be_over_at_the_next_try_ends_the_attempt_and_not_the_job(
    jobs: FineTuningJobs, job_id: str
) -> None:
    with pytest.raises(Unavailable), failure_recorded(job_id, jobs):
        raise Unavailable("no Ray cluster is running")
    assert jobs.get("default", job_id).status is JobStatus.RUNNING
    assert told(jobs, job_id)[-1].message == "this attempt could not go on: no Ray cluster is running"


def test_a_pause_is_no_failure(jobs: FineTuningJobs, job_id: str) -> None:
    with pytest.raises(SystemExit), failure_recorded(job_id, jobs):
        raise SystemExit(143)
    assert jobs.get("default", job_id).status is JobStatus.RUNNING


def test_figures_of_a_run_that_diverged_are_kept_as_none(jobs: FineTuningJobs, job_id: str) -> None:
    record = JobRecord(job_id, card, jobs)
    record(replace(STEP, loss=math.nan, grad_norm=math.inf))
    record(replace(EPOCH, validation_loss=math.nan))
    told = [event.data for event in jobs.events("default", job_id).data if event.data]
    assert (told[1]["train_loss"], told[1]["grad_norm"], told[0]["full_valid_loss"]) == (None, None, None)
    json.dumps(told, allow_nan=False)


def test_numbers_are_named_as_openai_names_them() -> None:
    message, data = describe(EPOCH)
    assert message == "Epoch 1 (step 40): validation loss=0.4000"
    assert data == {"step": 40, "epoch": 1, "full_valid_loss": 0.4, "full_valid_accuracy": 0.75}
