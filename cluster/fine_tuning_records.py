"""Tables of fine-tuning jobs, and their rows as values. `fine_tuning_jobs` and `fine_tuning_queue` change them."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple, Self

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    Row,
    String,
    Table,
    Text,
    UniqueConstraint,
)

from cluster.database import METADATA
from cluster.idempotency import ID_PREFIX


class JobStatus(StrEnum):
    """OpenAI's states of a job, and `paused`."""

    VALIDATING_FILES = "validating_files"
    QUEUED = "queued"
    RUNNING = "running"
    PAUSED = "paused"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


ENDED = frozenset({JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED})
ACTIVE = frozenset(JobStatus) - ENDED
# Far above what any job tells; Python refuses to read thousands of digits.
MAX_POSITION_DIGITS = 18


class Process(StrEnum):
    """What is known of the process of a job's newest attempt."""

    NONE = "none"  # there is none
    STARTING = "starting"  # it was decided on, and may have been started
    LIVE = "live"  # it was started, and has not been seen to end


JOBS = Table(
    "fine_tuning_jobs",
    METADATA,
    Column("id", String(64), primary_key=True),
    Column("tenant", String(64), nullable=False),
    Column("status", String(20), nullable=False, index=True, default=JobStatus.VALIDATING_FILES),
    Column("created_at", Double, nullable=False),
    Column("started_at", Double),
    Column("finished_at", Double),
    Column("model", String(255), nullable=False),
    Column("training_file", String(64), nullable=False),
    Column("validation_file", String(64)),
    Column("method", JSON, nullable=False),
    Column("hyperparameters", JSON, nullable=False),
    Column("suffix", String(64)),
    Column("seed", BigInteger, nullable=False),
    Column("labels", JSON),
    Column("config", JSON, nullable=False),
    Column("plan", JSON, nullable=False, default=dict),
    Column("error", JSON),
    Column("fine_tuned_model", String(255)),
    Column("trained_tokens", BigInteger),
    Column("result_files", JSON, nullable=False, default=list),
    Column("step", Integer),
    Column("total_steps", Integer),
    Column("progress_at", Double),
    Column("num_events", Integer, nullable=False, default=0),
    Column("attempt", Integer, nullable=False, default=0),
    Column("num_losses", Integer, nullable=False, default=0),
    Column("process", String(20), nullable=False, default=Process.NONE),
    Column("queued_at", Double),
    Column("waits_for", Text),
    Column("fingerprint", String(64)),
    Index("ix_fine_tuning_jobs_listing", "tenant", "created_at", "id"),
    info={ID_PREFIX: "ftjob-"},
)

EVENTS = Table(
    "fine_tuning_events",
    METADATA,
    Column("job_id", String(64), ForeignKey("fine_tuning_jobs.id", ondelete="CASCADE"), primary_key=True),
    Column("position", Integer, primary_key=True, autoincrement=False),
    Column("created_at", Double, nullable=False),
    Column("level", String(8), nullable=False),
    Column("type", String(8), nullable=False),
    Column("message", Text, nullable=False),
    Column("data", JSON),
)

CHECKPOINTS = Table(
    "fine_tuning_checkpoints",
    METADATA,
    Column("id", String(64), primary_key=True),
    Column("job_id", String(64), ForeignKey("fine_tuning_jobs.id", ondelete="CASCADE"), nullable=False),
    Column("step", Integer, nullable=False),
    Column("model_id", String(255), nullable=False),
    Column("created_at", Double, nullable=False),
    Column("metrics", JSON, nullable=False),
    UniqueConstraint("job_id", "step", name="uq_fine_tuning_checkpoints_step"),
)


@dataclass(frozen=True)
class JobRequest:
    """What a job is made of. `hyperparameters` have their values, `auto` decided; `config` is a FinetuneConfig."""

    model: str
    training_file: str
    validation_file: str | None
    method: dict[str, Any]
    hyperparameters: dict[str, Any]
    suffix: str | None
    seed: int
    labels: dict[str, str] | None
    config: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class FineTuningJob(JobRequest):
    """One job as it was when it was read. Times are Unix seconds; `step` counts optimizer steps.

    `waits_for` is why it was not started yet when that was last looked at, None before and after.
    """

    id: str
    tenant: str
    status: JobStatus
    created_at: float
    started_at: float | None
    finished_at: float | None
    plan: dict[str, Any]
    error: dict[str, Any] | None
    fine_tuned_model: str | None
    trained_tokens: int | None
    result_files: list[str]
    step: int | None
    total_steps: int | None
    progress_at: float | None
    num_events: int
    attempt: int
    num_losses: int
    process: Process
    queued_at: float | None
    waits_for: str | None

    @classmethod
    def of_row(cls, row: Row[Any]) -> Self:
        values = {name: value for name, value in row._mapping.items() if name != "fingerprint"}
        return cls(**values | {"status": JobStatus(values["status"]), "process": Process(values["process"])})

    @property
    def submission_id(self) -> str:
        """Name of the process of the newest attempt: a second start of the same attempt has the same name."""
        return f"{self.id}-{self.attempt}"


class QueuedJob(NamedTuple):
    """What decides about a job that waits; thousands may, whose requests need not be read again and again."""

    id: str
    tenant: str
    process: str
    attempt: int
    created_at: float
    queued_at: float | None
    waits_for: str | None


@dataclass(frozen=True)
class Event:
    """One event of a job."""

    id: str
    job_id: str
    created_at: float
    level: str
    type: str
    message: str
    data: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of_row(cls, row: Row[Any]) -> Self:
        return cls(
            event_id(row.job_id, row.position),
            row.job_id,
            row.created_at,
            row.level,
            row.type,
            row.message,
            row.data or {},
        )


@dataclass(frozen=True)
class Checkpoint:
    """A model as it was after `step` optimizer steps, registered under `model_id`."""

    id: str
    job_id: str
    step: int
    model_id: str
    created_at: float
    metrics: dict[str, float]

    @classmethod
    def of_row(cls, row: Row[Any]) -> Self:
        return cls(**row._mapping)


def event_id(job_id: str, position: int) -> str:
    """The id of a job's event by its number, from 1.

    >>> event_id("ftjob-1f2e", 12)
    'ftevent-1f2e-12'
    """
    return f"ftevent-{job_id.removeprefix('ftjob-')}-{position}"


def position_of(event: str, job_id: str) -> int | None:
    """The number in an event's id, None when it is no event of this job."""
    prefix, _, number = event.rpartition("-")
    if prefix != event_id(job_id, 0).rpartition("-")[0] or not number.isdecimal():
        return None
    if len(number) > MAX_POSITION_DIGITS:
        return None
    return int(number) if number == str(int(number)) else None
