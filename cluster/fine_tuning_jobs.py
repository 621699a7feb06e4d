"""Fine-tuning jobs: what was asked for, how far it is, how it ended, in SQL.

    validating_files -> queued -> running -> succeeded | failed
                           ^         |
                           +- paused <         cancelled: from every state that is not an end

Three parties write and none waits for another: here the HTTP API (create, cancel, pause, resume) and the training
run itself (events, checkpoints, its end), in `fine_tuning_queue` the conductor (queue, start, retry). Each method is
one transaction that changes a job only from the state it may leave, so that what comes late or twice changes nothing.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping, Set
from typing import Any

from sqlalchemy import Select, exists, func, insert, select, update
from sqlalchemy.engine import Engine

from cluster.cards import ModelCard
from cluster.database import open_database, reading
from cluster.errors import Conflict, NotFound
from cluster.files import Files, add_file
from cluster.fine_tuning_queue import FineTuningQueue
from cluster.fine_tuning_records import (
    ACTIVE,
    CHECKPOINTS,
    ENDED,
    EVENTS,
    JOBS,
    Checkpoint,
    Event,
    FineTuningJob,
    JobRequest,
    JobStatus,
    position_of,
)
from cluster.fine_tuning_rows import EventType, Level, end, error_of, jobs_of, require_job, say
from cluster.idempotency import IdempotencyKey, Identity, is_made, made_before
from cluster.paging import Page, cut, page_of_rows
from cluster.quotas import require_fewer_active
from cluster.registry import add_card
from cluster.step_metrics import RESULTS_PURPOSE, step_metrics_csv
from cluster.webhook_outbox import announce


class FineTuningJobs:
    """Jobs by tenant, and by id alone for the run that works on one."""

    def __init__(self, engine: Engine | None = None, clock: Callable[[], float] = time.time) -> None:
        self._engine = engine or open_database()
        self._clock = clock
        self._files = Files(self._engine, clock)
        self.queue = FineTuningQueue(self._engine, clock)

    # For the HTTP API: by tenant.

    def create(
        self,
        tenant: str,
        request: JobRequest,
        max_active: int | None = None,
        key: IdempotencyKey | None = None,
    ) -> FineTuningJob:
        """A new job in `validating_files`, or what was made before under `key`; durable on return.

        Raises Overloaded where the tenant has `max_active` jobs that have not ended, and as `is_made`.
        """
        identity, now = Identity.of(JOBS, tenant, key), self._clock()
        with self._engine.begin() as connection:
            if not is_made(connection, JOBS, tenant, identity):
                if max_active is not None:
                    require_fewer_active(connection, JOBS, "jobs", tenant, ACTIVE, max_active)
                values = {**vars(request), **vars(identity), "tenant": tenant, "created_at": now}
                connection.execute(insert(JOBS).values(**values))
                say(connection, identity.id, f"Created fine-tuning job: {identity.id}", now)
                say(connection, identity.id, f"Validating training file: {request.training_file}", now)
            return require_job(connection, jobs_of(tenant), identity.id)

    def made_before(self, tenant: str, key: IdempotencyKey | None) -> FineTuningJob | None:
        """What this request has made, as it is now; None where it comes for the first time. Raises as `is_made`."""
        job_id = made_before(self._engine, JOBS, tenant, key)
        return self.get(tenant, job_id) if job_id else None

    def get(self, tenant: str, job_id: str) -> FineTuningJob:
        """Raises NotFound for an id that is unknown or another tenant's."""
        with reading(self._engine) as connection:
            return require_job(connection, jobs_of(tenant), job_id)

    def list(
        self,
        tenant: str,
        *,
        after: str | None = None,
        limit: int = 20,
        metadata: Mapping[str, str] | None = None,
    ) -> Page[FineTuningJob]:
        """A page of jobs, newest first, of those whose metadata has all of `metadata`."""
        query = jobs_of(tenant)
        for key, value in (metadata or {}).items():
            query = query.where(_has_label(self._engine, key, value))
        with reading(self._engine) as connection:
            rows = page_of_rows(connection, query, JOBS, limit=limit, after=after)
        return rows.map(FineTuningJob.of_row)

    def events(self, tenant: str, job_id: str, *, after: str | None = None, limit: int = 20) -> Page[Event]:
        """A page of a job's events, newest first, older than the one named `after`.

        Raises NotFound for an unknown job or event. Events are numbered within their job, so that one which
        arrives between two pages causes neither a repeat nor a gap.
        """
        query = select(EVENTS).where(EVENTS.c.job_id == job_id)
        with reading(self._engine) as connection:
            job = require_job(connection, jobs_of(tenant), job_id)
            if after is not None:
                position = position_of(after, job_id)
                if position is None or not 0 < position <= job.num_events:
                    raise NotFound(
                        f"{job_id} has no event {after!r}; give an id of a page before",
                        "after",
                        "event_not_found",
                    )
                query = query.where(EVENTS.c.position < position)
            ordered = query.order_by(EVENTS.c.position.desc()).limit(limit + 1)
            rows = connection.execute(ordered).all()
        return cut(rows, limit).map(Event.of_row)

    def checkpoints(
        self, tenant: str, job_id: str, *, after: str | None = None, limit: int = 10
    ) -> Page[Checkpoint]:
        """A page of a job's checkpoints, newest first. Raises NotFound for an unknown job or `after`."""
        query = select(CHECKPOINTS).where(CHECKPOINTS.c.job_id == job_id)
        with reading(self._engine) as connection:
            require_job(connection, jobs_of(tenant), job_id)
            rows = page_of_rows(connection, query, CHECKPOINTS, limit=limit, after=after)
        return rows.map(Checkpoint.of_row)

    def cancel(self, tenant: str, job_id: str) -> FineTuningJob:
        """End a job; the process behind it is ended soon after. Again: the same. Raises Conflict after another end."""
        return self._turn(
            tenant, job_id, ACTIVE, JobStatus.CANCELLED, "The job was cancelled", finished_at=self._clock()
        )

    def pause(self, tenant: str, job_id: str) -> FineTuningJob:
        """Stop a queued or running job so that it can go on from its newest checkpoint. Raises Conflict elsewhere."""
        return self._turn(
            tenant, job_id, {JobStatus.QUEUED, JobStatus.RUNNING}, JobStatus.PAUSED, "The job was paused"
        )

    def resume(self, tenant: str, job_id: str) -> FineTuningJob:
        """Queue a paused job again. Raises Conflict for one that is not paused."""
        return self._turn(
            tenant,
            job_id,
            {JobStatus.PAUSED},
            JobStatus.QUEUED,
            "The job was resumed",
            again=False,
            queued_at=self._clock(),
            waits_for=None,
        )

    # For the training run: by id alone. The run may be an attempt that was given up; it then changes nothing.

    def post_event(
        self,
        job_id: str,
        message: str,
        level: Level = "info",
        type: EventType = "message",
        data: Mapping[str, Any] | None = None,
    ) -> None:
        """Add an event. Metrics give `step` and `total_steps` in `data`, which the job's progress is read from.

        Nothing is added to a job that has ended. Raises NotFound for an unknown job.
        """
        with self._engine.begin() as connection:
            if not say(connection, job_id, message, self._clock(), level, type, data):
                require_job(connection, select(JOBS), job_id)
                return
            if type == "metrics" and data and "step" in data:
                progress = {name: data[name] for name in ("step", "total_steps") if name in data}
                progress["progress_at"] = self._clock()
                connection.execute(update(JOBS).where(JOBS.c.id == job_id).values(**progress))

    def add_checkpoint(
        self,
        job_id: str,
        step: int,
        model_id: str,
        metrics: Mapping[str, float],
        card: ModelCard | None = None,
    ) -> None:
        """Add a checkpoint, and register its `card` in the same transaction. A step that is known is left as it is.

        Nothing is added to a job that has ended. Raises NotFound for an unknown job.
        """
        checkpoint = {
            "id": f"ftckpt_{secrets.token_hex(12)}",
            "job_id": job_id,
            "step": step,
            "model_id": model_id,
            "created_at": self._clock(),
            "metrics": dict(metrics),
        }
        with self._engine.begin() as connection:
            job = require_job(connection, select(JOBS).with_for_update(), job_id)
            known = select(CHECKPOINTS.c.id).where(CHECKPOINTS.c.job_id == job_id, CHECKPOINTS.c.step == step)
            if job.status in ENDED or connection.scalar(known) is not None:
                return
            if card is not None:
                add_card(connection, card, job.tenant)
            connection.execute(insert(CHECKPOINTS).values(**checkpoint))
            say(connection, job_id, f"Checkpoint created at step {step}: {model_id}", self._clock())

    def succeed(self, job_id: str, card: ModelCard, trained_tokens: int) -> bool:
        """Register the model and end the job, in one transaction; whether the model is registered now.

        Again: the same. False when the job ended otherwise before (it was cancelled): the caller then removes the
        weights. Raises NotFound for an unknown job, Conflict for a card whose parity was not proven.
        """
        with reading(self._engine) as connection:
            job = require_job(connection, select(JOBS), job_id)
            rows = connection.execute(_metrics_of(job_id)).all()
        if job.status in ENDED:
            return job.fine_tuned_model == card.id
        results = self._files.stored(
            job.tenant, "step_metrics.csv", RESULTS_PURPOSE, step_metrics_csv([row.data for row in rows])
        )
        with self._engine.begin() as connection:
            ended = end(
                connection,
                job_id,
                JobStatus.SUCCEEDED,
                f"New fine-tuned model created: {card.id}",
                self._clock(),
                fine_tuned_model=card.id,
                trained_tokens=trained_tokens,
                result_files=[results.id],
            )
            if ended:
                add_card(connection, card, job.tenant)
                add_file(connection, results)
                return True
        with reading(self._engine) as connection:
            return require_job(connection, select(JOBS), job_id).fine_tuned_model == card.id

    def fail(self, job_id: str, message: str, code: str = "job_failed", param: str | None = None) -> bool:
        """End the job with an error, in one sentence; whether it ends by this call. Raises NotFound."""
        error = error_of(code, message, param)
        with self._engine.begin() as connection:
            if end(connection, job_id, JobStatus.FAILED, message, self._clock(), "error", error=error):
                return True
            require_job(connection, select(JOBS), job_id)
            return False

    # For retention.

    def files_in_use(self) -> set[str]:
        """Ids of the files that jobs which have not ended were made from."""
        query = select(JOBS.c.training_file, JOBS.c.validation_file).where(JOBS.c.status.in_(ACTIVE))
        with reading(self._engine) as connection:
            return {file for row in connection.execute(query) for file in row if file}

    def _turn(
        self,
        tenant: str,
        job_id: str,
        allowed: Set[JobStatus],
        status: JobStatus,
        message: str,
        again: bool = True,
        **values: Any,
    ) -> FineTuningJob:
        """What a caller asks for: a change of status that only some states allow. `again`: repeating is no error."""
        with self._engine.begin() as connection:
            job = require_job(connection, jobs_of(tenant).with_for_update(), job_id)
            if job.status is status and again:
                return job
            if job.status not in allowed:
                verb = {JobStatus.CANCELLED: "cancelled", JobStatus.PAUSED: "paused"}.get(status, "resumed")
                states = ", ".join(sorted(state.value for state in allowed))
                raise Conflict(
                    f"{job_id} is {job.status.value}; a job can be {verb} while it is {states}",
                    "fine_tuning_job_id",
                    "invalid_state",
                )
            say(connection, job_id, message, self._clock())
            connection.execute(update(JOBS).where(JOBS.c.id == job_id).values(status=status, **values))
            if status in ENDED:
                announce(connection, f"fine_tuning.job.{status.value}", job_id, self._clock())
            return require_job(connection, jobs_of(tenant), job_id)


def _has_label(engine: Engine, key: str, value: str) -> Any:
    if engine.dialect.name == "postgresql":
        return JOBS.c.labels[key].as_string() == value
    # SQLite's paths find no key that JSON escapes: one with quotes, or with letters beyond ASCII.
    label = func.json_each(JOBS.c.labels).table_valued("key", "value")
    return exists().select_from(label).where(label.c.key == key, label.c.value == value)


def _metrics_of(job_id: str) -> Select[Any]:
    metrics = (EVENTS.c.job_id == job_id) & (EVENTS.c.type == "metrics")
    return select(EVENTS.c.data).where(metrics).order_by(EVENTS.c.position)
