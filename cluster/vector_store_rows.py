"""Rows of vector stores, read in a caller's transaction: those that are there, and how many files a store has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Row, Select, func, select

from cluster.errors import Conflict, NotFound
from cluster.vector_store_records import FILE_BATCHES, STORE_FILES, STORES, FileCounts, VectorStore, expiry


def stores_of(tenant: str) -> Select[Any]:
    return select(STORES).where(STORES.c.tenant == tenant, STORES.c.deleted_at.is_(None))


def files_of(store_id: str) -> Select[Any]:
    return select(STORE_FILES).where(STORE_FILES.c.store_id == store_id, ~STORE_FILES.c.is_removing)


def is_file(store_id: str, file_id: str) -> Any:
    return (STORE_FILES.c.store_id == store_id) & (STORE_FILES.c.id == file_id)


def require_store(connection: Connection, tenant: str, store_id: str) -> Row[Any]:
    row = connection.execute(stores_of(tenant).where(STORES.c.id == store_id)).first()
    if row is None:
        raise unknown_store(store_id)
    return row


def require_usable(connection: Connection, tenant: str, store_id: str, now: float) -> None:
    """Raises NotFound, and Conflict when a store has expired. Its files are not counted: every search asks."""
    row = require_store(connection, tenant, store_id)
    expires_at = expiry(row.last_active_at, row.expires_after_days)
    if expires_at is not None and now >= expires_at:
        raise Conflict(
            f"vector store {store_id!r} has expired, and its chunks are removed; create a new one",
            "vector_store_id",
            "vector_store_expired",
        )


def unknown_store(store_id: str) -> NotFound:
    return NotFound(
        f"no vector store {store_id!r}; list them with GET /v1/vector_stores",
        "vector_store_id",
        "vector_store_not_found",
    )


def require_file(connection: Connection, store_id: str, file_id: str) -> Row[Any]:
    row = connection.execute(files_of(store_id).where(STORE_FILES.c.id == file_id)).first()
    if row is None:
        raise NotFound(
            f"vector store {store_id!r} has no file {file_id!r}; list them with GET "
            f"/v1/vector_stores/{store_id}/files",
            "file_id",
            "file_not_found",
        )
    return row


def require_batch(connection: Connection, store_id: str, batch_id: str) -> Row[Any]:
    query = select(FILE_BATCHES).where(FILE_BATCHES.c.id == batch_id, FILE_BATCHES.c.store_id == store_id)
    row = connection.execute(query).first()
    if row is None:
        raise NotFound(f"vector store {store_id!r} has no batch {batch_id!r}", "batch_id", "batch_not_found")
    return row


# Of a store's row, what only transactions ask about.
_UNTOLD = ("deleted_at", "fingerprint")


def with_counts(connection: Connection, rows: Sequence[Row[Any]]) -> list[VectorStore]:
    counts = counts_by(connection, STORE_FILES.c.store_id, [row.id for row in rows])
    stores = []
    for row in rows:
        fields = {name: value for name, value in row._mapping.items() if name not in _UNTOLD}
        file_counts, usage_bytes = counts.get(row.id, (FileCounts(), 0))
        stores.append(VectorStore(**fields, file_counts=file_counts, usage_bytes=usage_bytes))
    return stores


def counts_by(
    connection: Connection, column: Any, values: Sequence[str]
) -> dict[str, tuple[FileCounts, int]]:
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
