"""Vector stores, their files and file batches by tenant: what the HTTP API reads and asks for.

A change is durable on return; the chunks in the collections follow by `vector_store_queue`. Another tenant's id
is answered exactly as one that never was.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Row, Select, Table, Text, cast, func, insert, select, tuple_, update
from sqlalchemy.engine import Engine

from cluster.database import open_database, reading
from cluster.errors import Conflict, NotFound
from cluster.paging import Page, cut
from cluster.vector_store_records import (
    BATCHES,
    STORE_FILES,
    STORES,
    FileBatch,
    FileCounts,
    FileStatus,
    NewFile,
    StoreFile,
    VectorStore,
)

# Searches come by the second; a store's last use is written at most so often.
TOUCH_EVERY_S = 60.0


class VectorStores:
    """Stores of all tenants. Every method is one transaction, safe from several processes."""

    def __init__(self, engine: Engine | None = None, clock: Callable[[], float] = time.time) -> None:
        self._engine = engine or open_database()
        self._clock = clock

    # Stores.

    def create(
        self,
        tenant: str,
        name: str = "",
        description: str = "",
        labels: Mapping[str, str] | None = None,
        expires_after_days: int | None = None,
        files: Sequence[NewFile] = (),
    ) -> VectorStore:
        """A new store, with files that are still to be read."""
        store_id, now = f"vs_{secrets.token_hex(12)}", self._clock()
        values = {
            "id": store_id,
            "tenant": tenant,
            "name": name,
            "description": description,
            "created_at": now,
            "last_active_at": now,
            "expires_after_days": expires_after_days,
            "labels": dict(labels or {}),
        }
        with self._engine.begin() as connection:
            connection.execute(insert(STORES).values(**values))
            self._add_files(connection, tenant, store_id, files, None)
        return self.get(tenant, store_id)

    def get(self, tenant: str, store_id: str) -> VectorStore:
        """Raises NotFound for an id that is unknown, deleted, or another tenant's."""
        with reading(self._engine) as connection:
            row = _require_store(connection, tenant, store_id)
            return _with_counts(connection, [row])[0]

    def usable(self, tenant: str, store_id: str) -> VectorStore:
        """A store that can be searched. Raises NotFound, and Conflict when it has expired."""
        store = self.get(tenant, store_id)
        if store.is_expired(self._clock()):
            raise _expired(store_id)
        return store

    def list(
        self,
        tenant: str,
        *,
        limit: int = 20,
        after: str | None = None,
        before: str | None = None,
        ascending: bool = False,
    ) -> Page[VectorStore]:
        """A page of stores, newest first unless `ascending`. Raises NotFound for an unknown cursor."""
        with reading(self._engine) as connection:
            rows = _page(connection, _stores_of(tenant), STORES, limit, after, before, ascending)
            return Page(_with_counts(connection, rows.data), rows.has_more)

    def modify(self, tenant: str, store_id: str, **changes: Any) -> VectorStore:
        """Set `name`, `labels` or `expires_after_days`. Raises NotFound."""
        with self._engine.begin() as connection:
            _require_store(connection, tenant, store_id)
            values = {**changes, "last_active_at": self._clock()}
            connection.execute(update(STORES).where(STORES.c.id == store_id).values(**values))
        return self.get(tenant, store_id)

    def touch(self, store_ids: Collection[str]) -> None:
        """Note that stores were used, which their expiry counts from."""
        now = self._clock()
        old = STORES.c.last_active_at < now - TOUCH_EVERY_S
        with self._engine.begin() as connection:
            used = update(STORES).where(STORES.c.id.in_(store_ids), old)
            connection.execute(used.values(last_active_at=now))

    def delete(self, tenant: str, store_id: str) -> None:
        """Hide a store and its files for good; their chunks are to be removed. Raises NotFound."""
        with self._engine.begin() as connection:
            _require_store(connection, tenant, store_id)
            gone = update(STORES).where(STORES.c.id == store_id)
            connection.execute(gone.values(deleted_at=self._clock()))
            files = update(STORE_FILES).where(STORE_FILES.c.store_id == store_id)
            connection.execute(files.values(is_removing=True))

    # Files.

    def attach(self, tenant: str, store_id: str, file: NewFile) -> StoreFile:
        """Put a file into a store, or read it again with other options. Raises NotFound, Conflict when expired."""
        with self._engine.begin() as connection:
            self._use(connection, tenant, store_id)
            self._add_files(connection, tenant, store_id, [file], None)
        return self.file(tenant, store_id, file.id)

    def file(self, tenant: str, store_id: str, file_id: str) -> StoreFile:
        """Raises NotFound for a store or a file in it that is unknown."""
        with reading(self._engine) as connection:
            _require_store(connection, tenant, store_id)
            return StoreFile.of_row(_require_file(connection, store_id, file_id))

    def files(
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
        query = _files_of(store_id)
        if status is not None:
            query = query.where(STORE_FILES.c.status == status.value)
        with reading(self._engine) as connection:
            _require_store(connection, tenant, store_id)
            if batch_id is not None:
                _require_batch(connection, store_id, batch_id)
                query = query.where(STORE_FILES.c.batch_id == batch_id)
            page = _page(connection, query, STORE_FILES, limit, after, before, ascending)
        return page.map(StoreFile.of_row)

    def found_files(self, tenant: str, keys: Collection[tuple[str, str]]) -> dict[tuple[str, str], StoreFile]:
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
            row = _require_file(connection, store_id, file_id)
            change = {"attributes": dict(attributes), "version": row.version + 1}
            connection.execute(update(STORE_FILES).where(_is(store_id, file_id)).values(**change))
        return self.file(tenant, store_id, file_id)

    def detach(self, tenant: str, store_id: str, file_id: str) -> None:
        """Hide a file of a store for good; its chunks are to be removed. Raises NotFound."""
        with self._engine.begin() as connection:
            _require_store(connection, tenant, store_id)
            _require_file(connection, store_id, file_id)
            connection.execute(update(STORE_FILES).where(_is(store_id, file_id)).values(is_removing=True))

    # Batches.

    def attach_batch(self, tenant: str, store_id: str, files: Sequence[NewFile]) -> FileBatch:
        """Put files into a store together. Raises NotFound, Conflict when it has expired."""
        batch_id = f"vsfb_{secrets.token_hex(12)}"
        values = {"id": batch_id, "store_id": store_id, "tenant": tenant, "created_at": self._clock()}
        with self._engine.begin() as connection:
            self._use(connection, tenant, store_id)
            connection.execute(insert(BATCHES).values(**values))
            self._add_files(connection, tenant, store_id, files, batch_id)
        return self.batch(tenant, store_id, batch_id)

    def batch(self, tenant: str, store_id: str, batch_id: str) -> FileBatch:
        """Raises NotFound."""
        with reading(self._engine) as connection:
            _require_store(connection, tenant, store_id)
            row = _require_batch(connection, store_id, batch_id)
            counts = _counts(connection, STORE_FILES.c.batch_id, [batch_id])
        file_counts, _ = counts.get(batch_id, (FileCounts(), 0))
        return FileBatch(row.id, store_id, row.created_at, row.cancelled_at is not None, file_counts)

    def cancel_batch(self, tenant: str, store_id: str, batch_id: str) -> FileBatch:
        """End the files of a batch that are not yet read. Again: nothing changes. Raises NotFound."""
        waiting = (STORE_FILES.c.batch_id == batch_id) & (
            STORE_FILES.c.status == FileStatus.IN_PROGRESS.value
        )
        ended = {
            "status": FileStatus.CANCELLED.value,
            "needs_purge": True,
            "version": STORE_FILES.c.version + 1,
        }
        with self._engine.begin() as connection:
            _require_store(connection, tenant, store_id)
            row = _require_batch(connection, store_id, batch_id)
            if (
                row.cancelled_at is None
                and connection.execute(
                    update(STORE_FILES).where(waiting, STORE_FILES.c.store_id == store_id).values(**ended)
                ).rowcount
            ):
                done = update(BATCHES).where(BATCHES.c.id == batch_id)
                connection.execute(done.values(cancelled_at=self._clock()))
        return self.batch(tenant, store_id, batch_id)

    def _use(self, connection: Connection, tenant: str, store_id: str) -> None:
        """Note that a store is used. Raises NotFound, and Conflict when it has expired."""
        (store,) = _with_counts(connection, [_require_store(connection, tenant, store_id)])
        now = self._clock()
        if store.is_expired(now):
            raise _expired(store_id)
        connection.execute(update(STORES).where(STORES.c.id == store_id).values(last_active_at=now))

    def _add_files(
        self,
        connection: Connection,
        tenant: str,
        store_id: str,
        files: Sequence[NewFile],
        batch_id: str | None,
    ) -> None:
        now = self._clock()
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
            row = connection.execute(select(STORE_FILES).where(_is(store_id, file.id))).first()
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
            connection.execute(update(STORE_FILES).where(_is(store_id, file.id)).values(**changed))


def _expired(store_id: str) -> Conflict:
    return Conflict(
        f"vector store {store_id!r} has expired, and its chunks are removed; create a new one",
        "vector_store_id",
        "vector_store_expired",
    )


def _stores_of(tenant: str) -> Select[Any]:
    return select(STORES).where(STORES.c.tenant == tenant, STORES.c.deleted_at.is_(None))


def _files_of(store_id: str) -> Select[Any]:
    return select(STORE_FILES).where(STORE_FILES.c.store_id == store_id, ~STORE_FILES.c.is_removing)


def _is(store_id: str, file_id: str) -> Any:
    return (STORE_FILES.c.store_id == store_id) & (STORE_FILES.c.id == file_id)


def _require_store(connection: Connection, tenant: str, store_id: str) -> Row[Any]:
    row = connection.execute(_stores_of(tenant).where(STORES.c.id == store_id)).first()
    if row is None:
        raise unknown_store(store_id)
    return row


def unknown_store(store_id: str) -> NotFound:
    return NotFound(
        f"no vector store {store_id!r}; list them with GET /v1/vector_stores",
        "vector_store_id",
        "vector_store_not_found",
    )


def _require_file(connection: Connection, store_id: str, file_id: str) -> Row[Any]:
    row = connection.execute(_files_of(store_id).where(STORE_FILES.c.id == file_id)).first()
    if row is None:
        raise NotFound(f"vector store {store_id!r} has no file {file_id!r}", "file_id", "file_not_found")
    return row


def _require_batch(connection: Connection, store_id: str, batch_id: str) -> Row[Any]:
    query = select(BATCHES).where(BATCHES.c.id == batch_id, BATCHES.c.store_id == store_id)
    row = connection.execute(query).first()
    if row is None:
        raise NotFound(f"vector store {store_id!r} has no batch {batch_id!r}", "batch_id", "batch_not_found")
    return row


def _with_counts(connection: Connection, rows: Sequence[Row[Any]]) -> list[VectorStore]:
    counts = _counts(connection, STORE_FILES.c.store_id, [row.id for row in rows])
    stores = []
    for row in rows:
        fields = {name: value for name, value in row._mapping.items() if name != "deleted_at"}
        file_counts, usage_bytes = counts.get(row.id, (FileCounts(), 0))
        stores.append(VectorStore(**fields, file_counts=file_counts, usage_bytes=usage_bytes))
    return stores


def _counts(connection: Connection, column: Any, values: Sequence[str]) -> dict[str, tuple[FileCounts, int]]:
    """File counts and usage by the values of a column."""
    query = (
        select(column, STORE_FILES.c.status, func.count(), func.sum(STORE_FILES.c.usage_bytes))
        .where(column.in_(values), ~STORE_FILES.c.is_removing)
        .group_by(column, STORE_FILES.c.status)
    )
    found: dict[str, tuple[FileCounts, int]] = {}
    for value, status, count, usage_bytes in connection.execute(query):
        counts, total = found.get(value, (FileCounts(), 0))
        found[value] = (counts._replace(**{status: count}), total + int(usage_bytes))
    return found


def _page(
    connection: Connection,
    query: Select[Any],
    table: Table,
    limit: int,
    after: str | None,
    before: str | None,
    ascending: bool,
) -> Page[Row[Any]]:
    """Rows by (created_at, id) behind `after`, or the ones just in front of `before`, in the listing's order."""
    cursor = after or before
    # What stands in front of a row is what stands behind it in the other direction, turned round.
    backwards = after is None and before is not None
    rising = ascending is not backwards
    order = tuple_(table.c.created_at, table.c.id)
    if cursor is not None:
        row = connection.execute(query.where(table.c.id == cursor)).first()
        if row is None:
            name = "before" if backwards else "after"
            raise NotFound(f"{name}: there is no {cursor!r} here; give an id of a page before", name)
        seen = tuple_(row.created_at, row.id)
        query = query.where(order > seen if rising else order < seen)
    columns = (table.c.created_at, table.c.id)
    ordered = query.order_by(*(column.asc() if rising else column.desc() for column in columns))
    page = cut(connection.execute(ordered.limit(limit + 1)).all(), limit)
    return Page(page.data[::-1], page.has_more) if backwards else page
