"""What has to be done for batches, in SQL: inputs to validate, rows to answer, files to close. One does it.

A worker claims a batch for one task, renews its lease while it works, and says at the end how it went. An answer
is kept only while the lease is its worker's and the batch still wants it, and a line has one place in the
table: whoever answers a row beside its successor, or after a cancellation, changes nothing.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from sqlalchemy import ColumnElement, and_, delete, insert, or_, select, update
from sqlalchemy.engine import Engine

from cluster.batch_records import ACTIVE, BATCHES, RESULTS, Batch, BatchStatus
from cluster.database import open_database, reading
from cluster.files import File, add_file
from cluster.webhook_outbox import announce

# An answer may take megabytes.
RESULTS_AT_ONCE = 20


class Task(StrEnum):
    """What is to be done for a batch."""

    VALIDATE = "validate"
    ANSWER = "answer"
    CLOSE = "close"


@dataclass(frozen=True)
class Work:
    """A claimed batch, as it was when it was claimed."""

    task: Task
    batch: Batch
    lease: str


def task_of(status: BatchStatus, expires_at: float, now: float) -> Task:
    """What a batch that has not ended waits for. Pure.

    >>> task_of(BatchStatus.IN_PROGRESS, expires_at=10.0, now=10.0)
    <Task.CLOSE: 'close'>
    """
    if now < expires_at and status is BatchStatus.VALIDATING:
        return Task.VALIDATE
    return Task.ANSWER if now < expires_at and status is BatchStatus.IN_PROGRESS else Task.CLOSE


def end_of(status: BatchStatus) -> BatchStatus:
    """How a batch ends that is closed in this state. Pure."""
    ends = {
        BatchStatus.CANCELLING: BatchStatus.CANCELLED,
        BatchStatus.FINALIZING: BatchStatus.COMPLETED,
    }
    return ends.get(status, BatchStatus.EXPIRED)


class BatchQueue:
    """Work of all tenants. Every method is one transaction, safe from several processes."""

    def __init__(self, engine: Engine | None = None, clock: Callable[[], float] = time.time) -> None:
        self._engine = engine or open_database()
        self._clock = clock

    def claim(self, lease_s: float, may_answer: bool = True) -> Work | None:
        """The oldest batch that something is to be done for, leased to the caller; None when there is none.

        Of each tenant the rows of one batch are answered at a time, so that many batches get no more than one.
        `may_answer` False asks for the other tasks alone, which are short.
        """
        now, lease = self._clock(), secrets.token_hex(16)
        with reading(self._engine) as connection:
            row = connection.execute(self._waiting(now, may_answer)).first()
        if row is None:
            return None
        free = and_(BATCHES.c.id == row.id, BATCHES.c.leased_until <= now, BATCHES.c.status == row.status)
        with self._engine.begin() as connection:
            taken = update(BATCHES).where(free).values(lease_owner=lease, leased_until=now + lease_s)
            if not connection.execute(taken).rowcount:
                return None  # another was faster
        batch = Batch.of_row(row)
        return Work(task_of(batch.status, batch.expires_at, now), batch, lease)

    def renew(self, work: Work, lease_s: float) -> bool:
        """Keep a batch for so long from now; False when it is another's or something else is wanted of it by now."""
        wanted = _wanted(work)
        if work.task is not Task.CLOSE:
            wanted = and_(wanted, BATCHES.c.expires_at > self._clock())
        return self._change(wanted, leased_until=self._clock() + lease_s)

    def release(self, work: Work, for_s: float = 0.0) -> None:
        """Give a batch back, to be claimed again after a while."""
        self._change(_held(work), leased_until=self._clock() + for_s, lease_owner=None)

    def begin(self, work: Work, num_rows: int, model: str | None) -> bool:
        """The input is good: its rows are to be answered. False when something else is wanted by now."""
        return self._turn(work, BatchStatus.IN_PROGRESS, num_rows=num_rows, model=model)

    def finalize(self, work: Work) -> bool:
        """Every row is answered. False as for `begin`."""
        return self._turn(work, BatchStatus.FINALIZING)

    def record(self, work: Work, line: int, result: str, is_failed: bool, tokens: tuple[int, int]) -> bool:
        """Keep the answer to a row, with its prompt and completion tokens. False, and not kept, as for `begin`."""
        counted = BATCHES.c.num_failed if is_failed else BATCHES.c.num_completed
        counts = {
            counted: counted + 1,
            BATCHES.c.num_prompt_tokens: BATCHES.c.num_prompt_tokens + tokens[0],
            BATCHES.c.num_completion_tokens: BATCHES.c.num_completion_tokens + tokens[1],
        }
        answer = {"batch_id": work.batch.id, "line": line, "is_failed": is_failed, "result": result}
        with self._engine.begin() as connection:
            if not connection.execute(update(BATCHES).where(_wanted(work)).values(counts)).rowcount:
                return False
            connection.execute(insert(RESULTS).values(**answer))
        return True

    def answered(self, batch_id: str) -> set[int]:
        """The lines that have their answers."""
        with reading(self._engine) as connection:
            return set(connection.scalars(select(RESULTS.c.line).where(RESULTS.c.batch_id == batch_id)))

    def results(self, batch_id: str, is_failed: bool) -> Iterator[str]:
        """Answers in the order of the input, read piece by piece."""
        mine = and_(RESULTS.c.batch_id == batch_id, RESULTS.c.is_failed == is_failed)
        line = 0
        while True:
            query = select(RESULTS.c.line, RESULTS.c.result).where(mine, RESULTS.c.line > line)
            with reading(self._engine) as connection:
                rows = connection.execute(query.order_by(RESULTS.c.line).limit(RESULTS_AT_ONCE)).all()
            if not rows:
                return
            yield from (row.result for row in rows)
            line = rows[-1].line

    def end(
        self,
        work: Work,
        status: BatchStatus,
        output: File | None = None,
        errors: File | None = None,
        faults: Sequence[dict[str, Any]] | None = None,
    ) -> bool:
        """End a batch, and make its files known, in one transaction. False as for `begin`: then the files are not."""
        values: dict[str, Any] = {
            "status": status,
            "times": self._times(work, status),
            "output_file": output.id if output else None,
            "error_file": errors.id if errors else None,
            "faults": list(faults) if faults else None,
            "leased_until": 0.0,
            "lease_owner": None,
        }
        batch_id = work.batch.id
        with self._engine.begin() as connection:
            if not connection.execute(update(BATCHES).where(_wanted(work)).values(**values)).rowcount:
                return False
            for file in (output, errors):
                if file is not None:
                    add_file(connection, file)
            connection.execute(delete(RESULTS).where(RESULTS.c.batch_id == batch_id))
            announce(connection, f"batch.{status.value}", batch_id, self._clock())
        return True

    def _waiting(self, now: float, may_answer: bool) -> Any:
        answering = BatchStatus.IN_PROGRESS.value
        other = BATCHES.alias()
        busy = select(other.c.tenant).where(other.c.status == answering, other.c.leased_until > now)
        other_task = or_(BATCHES.c.status != answering, BATCHES.c.expires_at <= now)
        due = or_(other_task, BATCHES.c.tenant.not_in(busy)) if may_answer else other_task
        return (
            select(BATCHES)
            .where(BATCHES.c.status.in_(ACTIVE), BATCHES.c.leased_until <= now, due)
            .order_by(BATCHES.c.created_at, BATCHES.c.id)
            .limit(1)
        )

    def _turn(self, work: Work, status: BatchStatus, **values: object) -> bool:
        """The next status, which anyone may claim."""
        turned = {"status": status, "times": self._times(work, status), **values}
        return self._change(_wanted(work), **turned, leased_until=0.0, lease_owner=None)

    def _times(self, work: Work, status: BatchStatus) -> dict[str, float]:
        return work.batch.times | {status.value: self._clock()}

    def _change(self, where: ColumnElement[bool], **values: object) -> bool:
        with self._engine.begin() as connection:
            return bool(connection.execute(update(BATCHES).where(where).values(**values)).rowcount)


def _held(work: Work) -> ColumnElement[bool]:
    """The batch's row, while the lease is still this worker's."""
    return and_(BATCHES.c.id == work.batch.id, BATCHES.c.lease_owner == work.lease)


def _wanted(work: Work) -> ColumnElement[bool]:
    """The same, while the batch is still in the state that it was claimed in."""
    return and_(_held(work), BATCHES.c.status == work.batch.status)
