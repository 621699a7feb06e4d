"""Fine-tuning jobs: what was asked for, how far it is, how it ended, in SQL.

    validating_files -> queued -> running -> succeeded | failed
                           ^         |
                           +- paused <         cancelled: from every state that is not an end

Three parties write here and none waits for another: the HTTP API (create, cancel, pause, resume), the conductor
(queue, start, retry) and the training run itself (events, checkpoints, its end). Each method is one transaction
that changes a job only from the state it may leave, so that what comes late or twice changes nothing.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from sqlalchemy import Connection, Select, insert, select, update
from sqlalchemy.engine import Engine

from cluster.cards import ModelCard
from cluster.database import open_database, reading
from cluster.errors import Conflict, NotFound
from cluster.files import Files, add_file
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
    Process,
    position_of,
)
from cluster.idempotency import IdempotencyKey, Identity, is_made, made_before
from cluster.paging import Page, cut, page_of_rows
from cluster.quotas import require_fewer_active
from cluster.registry import add_card
from cluster.step_metrics import RESULTS_PURPOSE, step_metrics_csv
from cluster.webhook_outbox import announce

Level = Literal["info", "warn", "error"]
EventType = Literal["message", "metrics"]


class FineTuningJobs:
    """Jobs by tenant, and by id alone for the run that works on one."""

    def __init__(self, engine: Engine | None = None, clock: Callable[[], float] = time.time) -> None:
        self._engine = engine or open_database()
        self._clock = clock
        self._files = Files(self._engine, clock)

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
        identity = Identity.of(JOBS, tenant, key)
        with self._engine.begin() as connection:
            if not is_made(connection, JOBS, tenant, identity):
                if max_active is not None:
                    require_fewer_active(connection, JOBS, "jobs", tenant, ACTIVE, max_active)
                values = {**vars(request), **vars(identity), "tenant": tenant, "created_at": self._clock()}
                connection.execute(insert(JOBS).values(**values))
                self._say(connection, identity.id, f"Created fine-tuning job: {identity.id}")
                self._say(connection, identity.id, f"Validating training file: {request.training_file}")
        return self.get(tenant, identity.id)

    def made_before(self, tenant: str, key: IdempotencyKey | None) -> FineTuningJob | None:
        """What this request has made, as it is now; None where it comes for the first time. Raises as `is_made`."""
        job_id = made_before(self._engine, JOBS, tenant, key)
        return self.get(tenant, job_id) if job_id else None

    def get(self, tenant: str, job_id: str) -> FineTuningJob:
        """Raises NotFound for an id that is unknown or another tenant's."""
        with reading(self._engine) as connection:
            return self._require(connection, _jobs_of(tenant), job_id)

    def list(
        self,
        tenant: str,
        *,
        after: str | None = None,
        limit: int = 20,
        metadata: Mapping[str, str] | None = None,
    ) -> Page[FineTuningJob]:
        """A page of jobs, newest first, of those whose metadata has all of `metadata`."""
        query = _jobs_of(tenant)
        for key, value in (metadata or {}).items():
            query = query.where(JOBS.c.labels[key].as_string() == value)
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
            job = self._require(connection, _jobs_of(tenant), job_id)
            if after is not None:
                position = position_of(after, job_id)
                if position is None or not 0 < position <= job.num_events:
                    raise NotFound(f"{job_id} has no event {after!r}", "after", "event_not_found")
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
            self._require(connection, _jobs_of(tenant), job_id)
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
            if not self._say(connection, job_id, message, level, type, data):
                self._require(connection, select(JOBS), job_id)
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
            job = self._require(connection, select(JOBS).with_for_update(), job_id)
            known = select(CHECKPOINTS.c.id).where(CHECKPOINTS.c.job_id == job_id, CHECKPOINTS.c.step == step)
            if job.status in ENDED or connection.scalar(known) is not None:
                return
            if card is not None:
                add_card(connection, card, job.tenant)
            connection.execute(insert(CHECKPOINTS).values(**checkpoint))
            self._say(connection, job_id, f"Checkpoint created at step {step}: {model_id}")

    def succeed(self, job_id: str, card: ModelCard, trained_tokens: int) -> bool:
        """Register the model and end the job, in one transaction; whether the model is registered now.

        Again: the same. False when the job ended otherwise before (it was cancelled): the caller then removes the
        weights. Raises NotFound for an unknown job, Conflict for a card whose parity was not proven.
        """
        with reading(self._engine) as connection:
            job = self._require(connection, select(JOBS), job_id)
            rows = connection.execute(_metrics_of(job_id)).all()
        if job.status in ENDED:
            return job.fine_tuned_model == card.id
        results = self._files.stored(
            job.tenant, "step_metrics.csv", RESULTS_PURPOSE, step_metrics_csv([row.data for row in rows])
        )
        with self._engine.begin() as connection:
            ended = self._end(
                connection,
                job_id,
                JobStatus.SUCCEEDED,
                f"New fine-tuned model created: {card.id}",
                fine_tuned_model=card.id,
                trained_tokens=trained_tokens,
                result_files=[results.id],
            )
            if ended:
                add_card(connection, card, job.tenant)
                add_file(connection, results)
                return True
        return self._known(job_id).fine_tuned_model == card.id

    def fail(self, job_id: str, message: str, code: str = "job_failed", param: str | None = None) -> bool:
        """End the job with an error, in one sentence; whether it ends by this call. Raises NotFound."""
        error = {"code": code, "message": message, "param": param}
        with self._engine.begin() as connection:
            if self._end(connection, job_id, JobStatus.FAILED, message, "error", error=error):
                return True
            self._require(connection, select(JOBS), job_id)
            return False

    # For the conductor: all tenants.

    def unsettled(self) -> Sequence[FineTuningJob]:
        """Jobs that something must be done for, oldest first: not ended, or with a process that may still run."""
        waiting = JOBS.c.status.in_(ACTIVE - {JobStatus.PAUSED}) | (JOBS.c.process != Process.NONE)
        with reading(self._engine) as connection:
            rows = connection.execute(
                select(JOBS).where(waiting).order_by(JOBS.c.created_at, JOBS.c.id)
            ).all()
        return [FineTuningJob.of_row(row) for row in rows]

    def queue(self, job_id: str, plan: Mapping[str, Any]) -> bool:
        """Move a job whose files are good to the queue, with what it will take; whether this call did."""
        return self._move(
            job_id,
            {"status": JobStatus.VALIDATING_FILES},
            "Files validated, moving job to queued state",
            status=JobStatus.QUEUED,
            queued_at=self._clock(),
            plan=dict(plan),
        )

    def tell_wait(self, job: FineTuningJob, reason: str) -> bool:
        """Say why a queued job is not started; whether that is news."""
        if job.waits_for == reason:
            return False
        return self._move(
            job.id, {"status": JobStatus.QUEUED}, f"The job waits in the queue: {reason}", waits_for=reason
        )

    def give_up(self, job: FineTuningJob, message: str) -> bool:
        """Fail a job that has waited too long, unless it is no longer queued; whether this call did."""
        error = {"code": "queue_timeout", "message": message, "param": None}
        waiting = (JOBS.c.id == job.id) & (JOBS.c.status == JobStatus.QUEUED)
        with self._engine.begin() as connection:
            if connection.execute(select(JOBS.c.id).where(waiting).with_for_update()).first() is None:
                return False
            return self._end(connection, job.id, JobStatus.FAILED, message, "error", error=error)

    def start(self, job: FineTuningJob) -> bool:
        """Decide that the next attempt of a queued job shall run; whether this call did.

        The attempt is counted before its process is started, so that its number, and with it the name of its
        process, is the same for whoever takes over after a crash in between.
        """
        return self._move(
            job.id,
            {"status": JobStatus.QUEUED, "attempt": job.attempt, "process": Process.NONE},
            "Fine-tuning job started"
            if job.attempt == 0
            else f"Fine-tuning job goes on (attempt {job.attempt + 1})",
            status=JobStatus.RUNNING,
            attempt=job.attempt + 1,
            process=Process.STARTING,
            started_at=self._clock(),
            waits_for=None,
        )

    def retry(self, job: FineTuningJob, reason: str) -> bool:
        """Decide that another attempt shall run, as the process of this one was lost; whether this call did."""
        return self._move(
            job.id,
            {"status": JobStatus.RUNNING, "attempt": job.attempt},
            f"The training process was lost ({reason}); starting it again from its newest checkpoint",
            "warn",
            attempt=job.attempt + 1,
            num_losses=job.num_losses + 1,
            process=Process.STARTING,
            started_at=self._clock(),
        )

    def set_process(self, job: FineTuningJob, process: Process) -> None:
        """Note what is known of the process of this attempt."""
        with self._engine.begin() as connection:
            mine = (JOBS.c.id == job.id) & (JOBS.c.attempt == job.attempt)
            connection.execute(update(JOBS).where(mine).values(process=process))

    def files_in_use(self) -> set[str]:
        """Ids of the files that jobs which have not ended were made from."""
        query = select(JOBS.c.training_file, JOBS.c.validation_file).where(JOBS.c.status.in_(ACTIVE))
        with reading(self._engine) as connection:
            return {file for row in connection.execute(query) for file in row if file}

    # What they have in common.

    def _known(self, job_id: str) -> FineTuningJob:
        with reading(self._engine) as connection:
            return self._require(connection, select(JOBS), job_id)

    def _require(self, connection: Connection, query: Select[Any], job_id: str) -> FineTuningJob:
        row = connection.execute(query.where(JOBS.c.id == job_id)).first()
        if row is None:
            raise NotFound(
                f"no fine-tuning job {job_id!r}; list them with GET /v1/fine_tuning/jobs",
                "fine_tuning_job_id",
                "job_not_found",
            )
        return FineTuningJob.of_row(row)

    def _move(
        self, job_id: str, required: Mapping[str, Any], message: str, level: Level = "info", **values: Any
    ) -> bool:
        """Change a job that is as `required`, and say so; whether it was."""
        matches = [JOBS.c[name] == value for name, value in required.items()]
        with self._engine.begin() as connection:
            changed = connection.execute(update(JOBS).where(JOBS.c.id == job_id, *matches).values(**values))
            if changed.rowcount:
                self._say(connection, job_id, message, level)
            return bool(changed.rowcount)

    def _turn(
        self,
        tenant: str,
        job_id: str,
        allowed: frozenset[JobStatus] | set[JobStatus],
        status: JobStatus,
        message: str,
        again: bool = True,
        **values: Any,
    ) -> FineTuningJob:
        """What a caller asks for: a change of status that only some states allow. `again`: repeating is no error."""
        with self._engine.begin() as connection:
            job = self._require(connection, _jobs_of(tenant).with_for_update(), job_id)
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
            self._say(connection, job_id, message)
            connection.execute(update(JOBS).where(JOBS.c.id == job_id).values(status=status, **values))
            if status in ENDED:
                announce(connection, f"fine_tuning.job.{status.value}", job_id, self._clock())
            return self._require(connection, _jobs_of(tenant), job_id)

    def _end(
        self,
        connection: Connection,
        job_id: str,
        status: JobStatus,
        message: str,
        level: Level = "info",
        **values: Any,
    ) -> bool:
        """End a job that has not ended; whether this call did."""
        if not self._say(connection, job_id, message, level):
            return False
        values |= {"status": status, "finished_at": self._clock()}
        connection.execute(update(JOBS).where(JOBS.c.id == job_id).values(**values))
        announce(connection, f"fine_tuning.job.{status.value}", job_id, self._clock())
        return True

    def _say(
        self,
        connection: Connection,
        job_id: str,
        message: str,
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
                created_at=self._clock(),
                level=level,
                type=type,
                message=message,
                data=dict(data) if data else None,
            )
        )
        return True


def _jobs_of(tenant: str) -> Select[Any]:
    return select(JOBS).where(JOBS.c.tenant == tenant)


def _metrics_of(job_id: str) -> Select[Any]:
    metrics = (EVENTS.c.job_id == job_id) & (EVENTS.c.type == "metrics")
    return select(EVENTS.c.data).where(metrics).order_by(EVENTS.c.position)
