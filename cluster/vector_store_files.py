"""The files of vector stores and their batches, by tenant: put in, listed, labelled, taken out.

A change is durable on return; the chunks in the collections follow by `vector_store_queue`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Text, cast, insert, select, tuple_, update
from sqlalchemy.engine import Engine

from cluster.database import open_database, reading
from cluster.idempotency import IdempotencyKey, Identity, is_made, made_before
from cluster.paging import Page, keep_places, page_of_rows
from cluster.vector_store_records import (
    FILE_BATCHES,
    STORE_FILES,
    STORES,
    FileBatch,
    FileCounts,
    FileStatus,
    NewFile,
    StoreFile,
)
from cluster.vector_store_rows import (
    counts_by,
    files_of,
    is_file,
    require_batch,
    require_file,
    require_store,
    require_usable,
)


class StoreFiles:
    """Files in the stores of all tenants. Every method is one transaction, safe from several processes."""

    def __init__(self, engine: Engine | None = None, clock: Callable[[], float] = time.time) -> None:
        self._engine = engine or open_database()
        self._clock = clock

    def attach(self, tenant: str, store_id: str, file: NewFile) -> StoreFile:
        """Put a file into a store, or read it again with other options. Raises NotFound, Conflict when expired."""
        with self._engine.begin() as connection:
            self._use(connection, tenant, store_id)
            add_files(connection, tenant, store_id, [file], None, self._clock())
            return StoreFile.of_row(require_file(connection, store_id, file.id))

    def get(self, tenant: str, store_id: str, file_id: str) -> StoreFile:
        """Raises NotFound for a store or a file in it that is unknown."""
        with reading(self._engine) as connection:
            require_store(connection, tenant, store_id)
            return StoreFile.of_row(require_file(connection, store_id, file_id))

    def list(
        self,
        tenant: str,
        store_id: str,
        *,
        batch_id: str | None = None,
        status: FileStatus | None = None,
        limit: int = 20,
        after: str | None = None,
        before: str | None = None,
        ascending: bool = False,
    ) -> Page[StoreFile]:
        """A page of a store's files, or of one batch's. Raises NotFound for an unknown store, batch or cursor."""
        query = files_of(store_id)
        if status is not None:
            query = query.where(STORE_FILES.c.status == status.value)
        with reading(self._engine) as connection:
            require_store(connection, tenant, store_id)
            if batch_id is not None:
                require_batch(connection, store_id, batch_id)
                query = query.where(STORE_FILES.c.batch_id == batch_id)
            page = page_of_rows(
                connection,
                query,
                STORE_FILES,
                limit=limit,
                after=after,
                before=before,
                ascending=ascending,
                cursors=files_of(store_id),
                owner=store_id,
            )
        return page.map(StoreFile.of_row)

    def found(self, tenant: str, keys: Collection[tuple[str, str]]) -> dict[tuple[str, str], StoreFile]:
        """Of these (store id, file id) those that are there, for what a search has found."""
        if not keys:
            return {}
        key = tuple_(STORE_FILES.c.store_id, STORE_FILES.c.id)
        query = select(STORE_FILES).where(
            key.in_(list(keys)), STORE_FILES.c.tenant == tenant, ~STORE_FILES.c.is_removing
        )
        with reading(self._engine) as connection:
            rows = connection.execute(query).all()
        return {(row.store_id, row.id): StoreFile.of_row(row) for row in rows}

    def attribute_keys(self, tenant: str, store_ids: Collection[str]) -> set[str]:
        """The keys that the files of some stores have attributes under."""
        # As text, since PostgreSQL tells no two JSON values apart. Most files of a store have the same attributes.
        query = (
            select(cast(STORE_FILES.c.attributes, Text))
            .distinct()
            .where(
                STORE_FILES.c.store_id.in_(store_ids),
                STORE_FILES.c.tenant == tenant,
                ~STORE_FILES.c.is_removing,
            )
        )
        with reading(self._engine) as connection:
            return {key for attributes in connection.scalars(query) for key in json.loads(attributes)}

    def set_attributes(
        self, tenant: str, store_id: str, file_id: str, attributes: Mapping[str, Any]
    ) -> StoreFile:
        """Raises NotFound."""
        with self._engine.begin() as connection:
            self._use(connection, tenant, store_id)
            row = require_file(connection, store_id, file_id)
            change = {"attributes": dict(attributes), "version": row.version + 1}
            connection.execute(update(STORE_FILES).where(is_file(store_id, file_id)).values(**change))
            return StoreFile.of_row(require_file(connection, store_id, file_id))

    def detach(self, tenant: str, store_id: str, file_id: str) -> None:
        """Hide a file of a store for good; its chunks are to be removed. Raises NotFound."""
        with self._engine.begin() as connection:
            require_store(connection, tenant, store_id)
            row = require_file(connection, store_id, file_id)
            keep_places(connection, [(store_id, file_id, row.created_at)], self._clock())
            connection.execute(update(STORE_FILES).where(is_file(store_id, file_id)).values(is_removing=True))

    def attach_batch(
        self, tenant: str, store_id: str, files: Sequence[NewFile], key: IdempotencyKey | None = None
    ) -> FileBatch:
        """Put files into a store together; once, under `key`.

        Raises NotFound, Conflict when the store has expired, and as `is_made`.
        """
        identity, now = Identity.of(FILE_BATCHES, tenant, key), self._clock()
        values = {**vars(identity), "store_id": store_id, "tenant": tenant, "created_at": now}
        with self._engine.begin() as connection:
            if not is_made(connection, FILE_BATCHES, tenant, identity):
                self._use(connection, tenant, store_id)
                connection.execute(insert(FILE_BATCHES).values(**values))
                add_files(connection, tenant, store_id, files, identity.id, now)
            return _batch(connection, tenant, store_id, identity.id)

    def batch_made_before(self, tenant: str, store_id: str, key: IdempotencyKey | None) -> FileBatch | None:
        """What this request has made, as it is now; None where it comes for the first time. Raises as `is_made`."""
        batch_id = made_before(self._engine, FILE_BATCHES, tenant, key)
        return self.batch(tenant, store_id, batch_id) if batch_id else None

    def batch(self, tenant: str, store_id: str, batch_id: str) -> FileBatch:
        """Raises NotFound."""
        with reading(self._engine) as connection:
            return _batch(connection, tenant, store_id, batch_id)

    def cancel_batch(self, tenant: str, store_id: str, batch_id: str) -> FileBatch:
        """End the files of a batch that are not yet read. Again: nothing changes. Raises NotFound."""
        waiting = (
            STORE_FILES.c.store_id == store_id,
            STORE_FILES.c.batch_id == batch_id,
            STORE_FILES.c.status == FileStatus.IN_PROGRESS.value,
        )
        end = {
            "status": FileStatus.CANCELLED.value,
            "needs_purge": True,
            "version": STORE_FILES.c.version + 1,
        }
        with self._engine.begin() as connection:
            require_store(connection, tenant, store_id)
            row = require_batch(connection, store_id, batch_id)
            if row.cancelled_at is None:
                ended = connection.execute(update(STORE_FILES).where(*waiting).values(**end))
                if ended.rowcount:
                    done = update(FILE_BATCHES).where(FILE_BATCHES.c.id == batch_id)
                    connection.execute(done.values(cancelled_at=self._clock()))
            return _batch(connection, tenant, store_id, batch_id)

    def _use(self, connection: Connection, tenant: str, store_id: str) -> None:
        """Note that a store is used. Raises NotFound, and Conflict when it has expired."""
        now = self._clock()
        require_usable(connection, tenant, store_id, now)
        connection.execute(update(STORES).where(STORES.c.id == store_id).values(last_active_at=now))


def _batch(connection: Connection, tenant: str, store_id: str, batch_id: str) -> FileBatch:
    require_store(connection, tenant, store_id)
    row = require_batch(connection, store_id, batch_id)
    file_counts, _ = counts_by(connection, STORE_FILES.c.batch_id, [batch_id]).get(
        batch_id, (FileCounts(), 0)
    )
    return FileBatch(row.id, store_id, row.created_at, row.cancelled_at is not None, file_counts)


def add_files(
    connection: Connection,
    tenant: str,
    store_id: str,
    files: Sequence[NewFile],
    batch_id: str | None,
    now: float,
) -> None:
    """Put files into a store, in the caller's transaction."""
    for position, file in enumerate(files):
        values = {
            "batch_id": batch_id,
            "filename": file.filename,
            "status": FileStatus.IN_PROGRESS.value,
            "error": None,
            "attributes": dict(file.attributes),
            "chunking": vars(file.chunking),
            "num_attempts": 0,
            # What is being removed comes back, and its old chunks go first.
            "is_removing": False,
        }
        # Locked: a worker that is just removing the row would take away what is said of it here.
        found = select(STORE_FILES).where(is_file(store_id, file.id)).with_for_update()
        row = connection.execute(found).first()
        if row is None:
            fresh = {
                "store_id": store_id,
                "id": file.id,
                "tenant": tenant,
                # In the order given, whatever the clock's resolution.
                "created_at": now + position * 1e-6,
                "usage_bytes": 0,
                "version": 1,
                "needs_purge": False,
                "leased_until": 0.0,
            }
            connection.execute(insert(STORE_FILES).values(**values, **fresh))
            continue
        # Cut differently, its old chunks would not be recognised as such by their content.
        recut = row.needs_purge or row.is_removing or row.chunking != values["chunking"]
        changed = {**values, "needs_purge": recut, "version": row.version + 1}
        connection.execute(update(STORE_FILES).where(is_file(store_id, file.id)).values(**changed))
