"""Vector stores by tenant: what the HTTP API reads and asks for. Their files are in `vector_store_files`.

A change is durable on return; the chunks in the collections follow by `vector_store_queue`. Another tenant's id
is answered exactly as one that never was.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, insert, update
from sqlalchemy.engine import Engine

from cluster.database import open_database, reading
from cluster.idempotency import IdempotencyKey, Identity, is_made, made_before
from cluster.paging import Page, keep_places, page_of_rows
from cluster.vector_store_files import StoreFiles, add_files
from cluster.vector_store_records import STORE_FILES, STORES, NewFile, VectorStore
from cluster.vector_store_rows import require_store, require_usable, stores_of, with_counts

# Searches come by the second; a store's last use is written at most so often.
TOUCH_EVERY_S = 60.0


class VectorStores:
    """Stores of all tenants. Every method is one transaction, safe from several processes."""

    def __init__(self, engine: Engine | None = None, clock: Callable[[], float] = time.time) -> None:
        self._engine = engine or open_database()
        self._clock = clock
        self.files = StoreFiles(self._engine, clock)

    def create(
        self,
        tenant: str,
        name: str = "",
        description: str = "",
        labels: Mapping[str, str] | None = None,
        expires_after_days: int | None = None,
        files: Sequence[NewFile] = (),
        key: IdempotencyKey | None = None,
    ) -> VectorStore:
        """A new store, with files that are still to be read, or what was made before under `key`.

        Raises as `is_made`.
        """
        identity, now = Identity.of(STORES, tenant, key), self._clock()
        values = {
            **vars(identity),
            "tenant": tenant,
            "name": name,
            "description": description,
            "created_at": now,
            "last_active_at": now,
            "expires_after_days": expires_after_days,
            "labels": dict(labels or {}),
        }
        with self._engine.begin() as connection:
            if not is_made(connection, STORES, tenant, identity):
                connection.execute(insert(STORES).values(**values))
                add_files(connection, tenant, identity.id, files, None, now)
            return _store(connection, tenant, identity.id)

    def made_before(self, tenant: str, key: IdempotencyKey | None) -> VectorStore | None:
        """What this request has made, as it is now; None where it comes for the first time. Raises as `is_made`."""
        store_id = made_before(self._engine, STORES, tenant, key)
        return self.get(tenant, store_id) if store_id else None

    def get(self, tenant: str, store_id: str) -> VectorStore:
        """Raises NotFound for an id that is unknown, deleted, or another tenant's."""
        with reading(self._engine) as connection:
            return _store(connection, tenant, store_id)

    def is_known(self, tenant: str, store_id: str) -> bool:
        """Whether `get` would find it; its files, which may be many, are not counted."""
        with reading(self._engine) as connection:
            return connection.execute(stores_of(tenant).where(STORES.c.id == store_id)).first() is not None

    def require_usable(self, tenant: str, store_id: str) -> None:
        """Raises NotFound, and Conflict when the store has expired and cannot be searched any more."""
        with reading(self._engine) as connection:
            require_usable(connection, tenant, store_id, self._clock())

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
            rows = page_of_rows(
                connection,
                stores_of(tenant),
                STORES,
                limit=limit,
                after=after,
                before=before,
                ascending=ascending,
                owner=tenant,
            )
            return Page(with_counts(connection, rows.data), rows.has_more)

    def modify(self, tenant: str, store_id: str, **changes: Any) -> VectorStore:
        """Set `name`, `labels` or `expires_after_days`. Raises NotFound, and Conflict when the store has expired."""
        now = self._clock()
        with self._engine.begin() as connection:
            require_usable(connection, tenant, store_id, now)
            values = {**changes, "last_active_at": now}
            connection.execute(update(STORES).where(STORES.c.id == store_id).values(**values))
            return _store(connection, tenant, store_id)

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
            row = require_store(connection, tenant, store_id)
            keep_places(connection, [(tenant, store_id, row.created_at)], self._clock())
            gone = update(STORES).where(STORES.c.id == store_id)
            connection.execute(gone.values(deleted_at=self._clock()))
            files = update(STORE_FILES).where(STORE_FILES.c.store_id == store_id)
            connection.execute(files.values(is_removing=True))


def _store(connection: Connection, tenant: str, store_id: str) -> VectorStore:
    return with_counts(connection, [require_store(connection, tenant, store_id)])[0]
