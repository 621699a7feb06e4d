"""Rows of fine-tuning jobs in a caller's transaction: found, told of in events, ended."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from sqlalchemy import Connection, Select, insert, select, update

from cluster.errors import NotFound
from cluster.fine_tuning_records import ENDED, EVENTS, JOBS, FineTuningJob, JobStatus
from cluster.webhook_outbox import announce

Level = Literal["info", "warn", "error"]
EventType = Literal["message", "metrics"]


def jobs_of(tenant: str) -> Select[Any]:
    return select(JOBS).where(JOBS.c.tenant == tenant)


def require_job(connection: Connection, query: Select[Any], job_id: str) -> FineTuningJob:
    """The job of this id in `query`. Raises NotFound."""
    row = connection.execute(query.where(JOBS.c.id == job_id)).first()
    if row is None:
        raise NotFound(
            f"no fine-tuning job {job_id!r}; list them with GET /v1/fine_tuning/jobs",
            "fine_tuning_job_id",
            "job_not_found",
        )
    return FineTuningJob.of_row(row)


def say(
    connection: Connection,
    job_id: str,
    message: str,
    now: float,
    level: Level = "info",
    type: EventType = "message",
    data: Mapping[str, Any] | None = None,
) -> bool:
    """Add an event to a job that has not ended; whether it had not. Others wait for the row until we commit."""
    counted = (
        update(JOBS)
        .where(JOBS.c.id == job_id, JOBS.c.status.not_in(ENDED))
        .values(num_events=JOBS.c.num_events + 1)
        .returning(JOBS.c.num_events)
    )
    position = connection.scalar(counted)
    if position is None:
        return False
    connection.execute(
        insert(EVENTS).values(
            job_id=job_id,
            position=position,
            created_at=now,
            level=level,
            type=type,
            message=message,
            data=dict(data) if data else None,
        )
    )
    return True


def end(
    connection: Connection,
    job_id: str,
    status: JobStatus,
    message: str,
    now: float,
    level: Level = "info",
    **values: Any,
) -> bool:
    """End a job that has not ended; whether this call did."""
    if not say(connection, job_id, message, now, level):
        return False
    values |= {"status": status, "finished_at": now}
    connection.execute(update(JOBS).where(JOBS.c.id == job_id).values(**values))
    announce(connection, f"fine_tuning.job.{status.value}", job_id, now)
    return True


def error_of(code: str, message: str, param: str | None = None) -> dict[str, Any]:
    """Why a job failed, as its row and OpenAI's job object have it."""
    return {"code": code, "message": message, "param": param}
