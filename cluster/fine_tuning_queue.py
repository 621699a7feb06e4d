"""What has to be done for fine-tuning jobs, in SQL: files to check, runs to start, to watch and to start again.

Each step says what it has seen, the status or the number of the attempt, and changes nothing where that is not so
any more: of two who see the same, one does it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, select, update
from sqlalchemy.engine import Engine

from cluster.database import open_database, reading
from cluster.fine_tuning_records import JOBS, FineTuningJob, JobStatus, Process, QueuedJob
from cluster.fine_tuning_rows import Level, end, error_of, say

_PLACE = [JOBS.c[name] for name in QueuedJob._fields]
_IN_ORDER = (JOBS.c.created_at, JOBS.c.id)


class FineTuningQueue:
    """Work on the jobs of all tenants. Every method is one transaction, safe from several processes."""

    def __init__(self, engine: Engine | None = None, clock: Callable[[], float] = time.time) -> None:
        self._engine = engine or open_database()
        self._clock = clock

    def unchecked(self) -> Sequence[FineTuningJob]:
        """Jobs whose files are to be checked, oldest first."""
        return self._jobs(JOBS.c.status == JobStatus.VALIDATING_FILES)

    def busy(self) -> Sequence[FineTuningJob]:
        """Jobs with a process that may still run, oldest first; also those that have ended."""
        return self._jobs(JOBS.c.process != Process.NONE)

    def waiting(self) -> Sequence[QueuedJob]:
        """Jobs in the queue, oldest first."""
        query = select(*_PLACE).where(JOBS.c.status == JobStatus.QUEUED).order_by(*_IN_ORDER)
        with reading(self._engine) as connection:
            return [QueuedJob(*row) for row in connection.execute(query)]

    def add(self, job_id: str, plan: Mapping[str, Any]) -> bool:
        """Move a job whose files are good to the queue, with what it will take; whether this call did."""
        return self._move(
            job_id,
            {"status": JobStatus.VALIDATING_FILES},
            "Files validated, moving job to queued state",
            status=JobStatus.QUEUED,
            queued_at=self._clock(),
            plan=dict(plan),
        )

    def tell_wait(self, job_id: str, reason: str) -> bool:
        """Say why a queued job is not started; whether it is queued."""
        message = f"The job waits in the queue: {reason}"
        return self._move(job_id, {"status": JobStatus.QUEUED}, message, waits_for=reason)

    def give_up(self, job_id: str, message: str) -> bool:
        """Fail a job that has waited too long, unless it is no longer queued; whether this call did."""
        waiting = (JOBS.c.id == job_id) & (JOBS.c.status == JobStatus.QUEUED)
        error = error_of("queue_timeout", message)
        with self._engine.begin() as connection:
            if connection.execute(select(JOBS.c.id).where(waiting).with_for_update()).first() is None:
                return False
            return end(connection, job_id, JobStatus.FAILED, message, self._clock(), "error", error=error)

    def start(self, job_id: str, attempt: int) -> bool:
        """Decide that the attempt after this one of a queued job shall run; whether this call did.

        The attempt is counted before its process is started, so that its number, and with it the name of its
        process, is the same for whoever takes over after a crash in between.
        """
        return self._move(
            job_id,
            {"status": JobStatus.QUEUED, "attempt": attempt, "process": Process.NONE},
            "Fine-tuning job started" if attempt == 0 else f"Fine-tuning job goes on (attempt {attempt + 1})",
            status=JobStatus.RUNNING,
            attempt=attempt + 1,
            process=Process.STARTING,
            started_at=self._clock(),
            waits_for=None,
        )

    def retry(self, job_id: str, attempt: int, reason: str) -> bool:
        """Decide that another attempt shall run, as the process of this one was lost; whether this call did."""
        return self._move(
            job_id,
            {"status": JobStatus.RUNNING, "attempt": attempt},
            f"The training process was lost ({reason}); starting it again from its newest checkpoint",
            "warn",
            attempt=attempt + 1,
            num_losses=JOBS.c.num_losses + 1,
            process=Process.STARTING,
            started_at=self._clock(),
        )

    def set_process(self, job_id: str, attempt: int, process: Process) -> None:
        """Note what is known of the process of this attempt."""
        with self._engine.begin() as connection:
            mine = (JOBS.c.id == job_id) & (JOBS.c.attempt == attempt)
            connection.execute(update(JOBS).where(mine).values(process=process))

    def _jobs(self, where: ColumnElement[bool]) -> Sequence[FineTuningJob]:
        with reading(self._engine) as connection:
            rows = connection.execute(select(JOBS).where(where).order_by(*_IN_ORDER)).all()
        return [FineTuningJob.of_row(row) for row in rows]

    def _move(
        self, job_id: str, required: Mapping[str, Any], message: str, level: Level = "info", **values: Any
    ) -> bool:
        """Change a job that is as `required`, and say so; whether it was."""
        matches = [JOBS.c[name] == value for name, value in required.items()]
        with self._engine.begin() as connection:
            changed = connection.execute(update(JOBS).where(JOBS.c.id == job_id, *matches).values(**values))
            if changed.rowcount:
                say(connection, job_id, message, self._clock(), level)
            return bool(changed.rowcount)
