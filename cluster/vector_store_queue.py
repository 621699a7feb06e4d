"""What has to be done for vector stores, in SQL: files to read, chunks to remove. Leased, so that one does it.

A worker claims an item, renews its lease while it works, and says at the end how it went. Whatever was asked
for in between (another version, a cancelled batch, a deleted store) makes that end a no-op, and the item comes
up again as what it then is. A worker that dies lets its lease run out. All work may be done twice without harm.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from sqlalchemy import ColumnElement, Row, Select, and_, delete, exists, func, or_, select, update
from sqlalchemy.engine import Engine

from cluster.database import open_database, reading
from cluster.files import FILES
from cluster.paging import keep_places
from cluster.vector_store_records import DAY_S, STORE_FILES, STORES, FileStatus, StoreFile
from cluster.vector_store_rows import is_file

# A file that ends the process which reads it would do so for ever.
MAX_ATTEMPTS = 5


class Task(StrEnum):
    """What is to be done for a file of a store."""

    READ = "read"
    PURGE = "purge"
    REMOVE = "remove"


@dataclass(frozen=True)
class Work:
    """A claimed item. `must_purge`: chunks of before are to be removed first; `num_attempts`: with this one."""

    task: Task
    file: StoreFile
    lease: str
    must_purge: bool
    num_attempts: int


class VectorStoreQueue:
    """Work of all tenants. Every method is one transaction, safe from several processes."""

    def __init__(self, engine: Engine | None = None, clock: Callable[[], float] = time.time) -> None:
        self._engine = engine or open_database()
        self._clock = clock

    def claim(self, lease_s: float) -> Work | None:
        """The next item, leased to the caller; None when there is nothing to do.

        Tenants take turns: of those that wait, the one with the fewest items in progress comes first.
        """
        now, lease = self._clock(), secrets.token_hex(16)
        with self._engine.begin() as connection:
            row = connection.execute(_next(now)).first()
            if row is None:
                return None
            values = {
                "lease_owner": lease,
                "leased_until": now + lease_s,
                "num_attempts": row.num_attempts + 1,
            }
            connection.execute(update(STORE_FILES).where(is_file(row.store_id, row.id)).values(**values))
        return Work(_task_of(row), StoreFile.of_row(row), lease, row.needs_purge, row.num_attempts + 1)

    def renew(self, work: Work, lease_s: float) -> bool:
        """Keep an item for so long from now; False when it is another's."""
        return self._change(work, leased_until=self._clock() + lease_s)

    def put_off(self, work: Work, for_s: float) -> None:
        """Give an item back, to be tried again after a while. Counts as no attempt."""
        later = self._clock() + for_s
        self._change(work, leased_until=later, num_attempts=work.num_attempts - 1, lease_owner=None)

    def complete(self, work: Work, usage_bytes: int) -> bool:
        """The file is read and its chunks are there. False when something else is wanted of it by now."""
        done = {"status": FileStatus.COMPLETED.value, "usage_bytes": usage_bytes, "error": None}
        return self._finish(work, **done, needs_purge=False)

    def fail(self, work: Work, code: str, message: str) -> bool:
        """The file cannot be read; what there is of its chunks goes. False as for `complete`."""
        failed = {"status": FileStatus.FAILED.value, "error": [code, message], "usage_bytes": 0}
        return self._finish(work, **failed, needs_purge=True)

    def purged(self, work: Work) -> bool:
        """Its chunks are removed, the row stays. False as for `complete`."""
        return self._finish(work, needs_purge=False)

    def removed(self, work: Work) -> None:
        """Its chunks are removed, and so is the row."""
        with self._engine.begin() as connection:
            connection.execute(delete(STORE_FILES).where(_held(work), STORE_FILES.c.is_removing))

    def forget(self, store_id: str, file_ids: Collection[str]) -> None:
        """The chunks of these files are removed: so are their rows, but those that a worker still holds."""
        free = and_(STORE_FILES.c.is_removing, STORE_FILES.c.leased_until <= self._clock())
        with self._engine.begin() as connection:
            mine = and_(STORE_FILES.c.store_id == store_id, STORE_FILES.c.id.in_(file_ids))
            connection.execute(delete(STORE_FILES).where(mine, free))

    def removing(self, store_id: str, limit: int) -> list[str]:
        """Files of a store whose chunks are to be removed, and that no worker holds."""
        free = and_(STORE_FILES.c.is_removing, STORE_FILES.c.leased_until <= self._clock())
        query = select(STORE_FILES.c.id).where(STORE_FILES.c.store_id == store_id, free).limit(limit)
        with reading(self._engine) as connection:
            return list(connection.scalars(query))

    def is_known(self, work: Work) -> bool:
        """Whether the row of an item is still there."""
        with reading(self._engine) as connection:
            return bool(connection.scalar(select(exists().where(is_file(work.file.store_id, work.file.id)))))

    def sweep(self) -> None:
        """Find what ended by itself: expired stores, files that were deleted, deleted stores without files."""
        now = self._clock()
        # Within what holds for both databases: the sum is in seconds, as both columns are numbers.
        ended = and_(
            STORES.c.expires_after_days.is_not(None),
            STORES.c.last_active_at + STORES.c.expires_after_days * DAY_S <= now,
        )
        expired = select(STORES.c.id).where(or_(ended, STORES.c.deleted_at.is_not(None)))
        orphaned = ~exists().where(FILES.c.id == STORE_FILES.c.id)
        is_listed, is_in_expired = ~STORE_FILES.c.is_removing, STORE_FILES.c.store_id.in_(expired)
        gone = and_(is_listed, or_(is_in_expired, orphaned))
        # Of stores that live on: the files of others are listed no more.
        places = select(STORE_FILES.c.store_id, STORE_FILES.c.id, STORE_FILES.c.created_at).where(
            is_listed, ~is_in_expired, orphaned
        )
        has_files = exists().where(STORE_FILES.c.store_id == STORES.c.id)
        with reading(self._engine) as connection:
            # Nearly always nothing, which should make no writer wait.
            some = connection.scalar(select(exists().where(gone)))
            dead = connection.scalar(select(exists().where(STORES.c.deleted_at.is_not(None), ~has_files)))
        if some or dead:
            with self._engine.begin() as connection:
                keep_places(connection, [tuple(row) for row in connection.execute(places)], now)
                connection.execute(update(STORE_FILES).where(gone).values(is_removing=True))
                connection.execute(delete(STORES).where(STORES.c.deleted_at.is_not(None), ~has_files))

    def _finish(self, work: Work, **values: object) -> bool:
        """End an item as the version that was claimed, else let it come up again at once."""
        with self._engine.begin() as connection:
            unchanged = and_(STORE_FILES.c.version == work.file.version, ~STORE_FILES.c.is_removing)
            end = {**values, "leased_until": 0.0, "lease_owner": None, "num_attempts": 0}
            done = connection.execute(update(STORE_FILES).where(_held(work), unchanged).values(**end))
            if done.rowcount:
                return True
            again = {"leased_until": 0.0, "lease_owner": None, "num_attempts": 0, "needs_purge": True}
            connection.execute(update(STORE_FILES).where(_held(work)).values(**again))
        return False

    def _change(self, work: Work, **values: object) -> bool:
        with self._engine.begin() as connection:
            return bool(connection.execute(update(STORE_FILES).where(_held(work)).values(**values)).rowcount)


def _next(now: float) -> Select[Any]:
    """The item that is claimed next, its row locked; one that another is claiming is passed over."""
    # Counted once for each tenant: counted for each item, a claim among 10,000 took 18 s.
    leased = STORE_FILES.alias()
    busy = (
        select(leased.c.tenant, func.count().label("num_items"))
        .where(leased.c.leased_until > now)
        .group_by(leased.c.tenant)
        .subquery()
    )
    wanted = or_(
        STORE_FILES.c.status == FileStatus.IN_PROGRESS.value,
        STORE_FILES.c.is_removing,
        STORE_FILES.c.needs_purge,
    )
    return (
        select(STORE_FILES)
        .outerjoin(busy, busy.c.tenant == STORE_FILES.c.tenant)
        .where(STORE_FILES.c.leased_until <= now, wanted)
        .order_by(func.coalesce(busy.c.num_items, 0), STORE_FILES.c.created_at, STORE_FILES.c.id)
        .limit(1)
        .with_for_update(skip_locked=True, of=STORE_FILES)
    )


def _task_of(row: Row[Any]) -> Task:
    if row.is_removing:
        return Task.REMOVE
    return Task.READ if row.status == FileStatus.IN_PROGRESS.value else Task.PURGE


def _held(work: Work) -> ColumnElement[bool]:
    """The item's row, while the lease is still this worker's."""
    return and_(is_file(work.file.store_id, work.file.id), STORE_FILES.c.lease_owner == work.lease)
