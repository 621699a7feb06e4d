"""Batches by tenant: what the HTTP API reads and asks for. The work on them is leased by `batch_queue`.

validating -> in_progress -> finalizing -> completed
     |             |
     +-> failed    +-> expired          cancelling -> cancelled: from every state that is not an end
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from sqlalchemy import Connection, Select, insert, select, update
from sqlalchemy.engine import Engine

from cluster.batch_records import ACTIVE, BATCHES, Batch, BatchRequest, BatchStatus
from cluster.database import open_database, reading
from cluster.errors import Conflict, NotFound
from cluster.idempotency import IdempotencyKey, Identity, is_made, made_before
from cluster.paging import Page, page_of_rows
from cluster.quotas import require_fewer_active

# OpenAI's only `completion_window`, 24h.
WINDOW_S = 24 * 3600.0


class Batches:
    """Batches of all tenants. Every method is one transaction, safe from several processes."""

    def __init__(self, engine: Engine | None = None, clock: Callable[[], float] = time.time) -> None:
        self._engine = engine or open_database()
        self._clock = clock

    def create(
        self,
        tenant: str,
        request: BatchRequest,
        max_active: int | None = None,
        key: IdempotencyKey | None = None,
    ) -> Batch:
        """A new batch in `validating`, or what was made before under `key`; durable on return.

        Raises Overloaded where the tenant has `max_active` batches that have not ended, and as `is_made`.
        """
        identity, now = Identity.of(BATCHES, tenant, key), self._clock()
        values = {**vars(identity), "tenant": tenant, "created_at": now, "expires_at": now + WINDOW_S}
        with self._engine.begin() as connection:
            if not is_made(connection, BATCHES, tenant, identity):
                if max_active is not None:
                    require_fewer_active(connection, BATCHES, "batches", tenant, ACTIVE, max_active)
                connection.execute(insert(BATCHES).values(**vars(request), **values))
            return _require(connection, _batches_of(tenant), identity.id)

    def made_before(self, tenant: str, key: IdempotencyKey | None) -> Batch | None:
        """What this request has made, as it is now; None where it comes for the first time. Raises as `is_made`."""
        batch_id = made_before(self._engine, BATCHES, tenant, key)
        return self.get(tenant, batch_id) if batch_id else None

    def get(self, tenant: str, batch_id: str) -> Batch:
        """Raises NotFound for an id that is unknown or another tenant's."""
        with reading(self._engine) as connection:
            return _require(connection, _batches_of(tenant), batch_id)

    def list(self, tenant: str, *, after: str | None = None, limit: int = 20) -> Page[Batch]:
        """A page of batches, newest first. Raises NotFound for an unknown `after`."""
        with reading(self._engine) as connection:
            rows = page_of_rows(connection, _batches_of(tenant), BATCHES, limit=limit, after=after)
        return rows.map(Batch.of_row)

    def cancel(self, tenant: str, batch_id: str) -> Batch:
        """Answer no further row; its files follow. Again: the same. Raises Conflict after another end."""
        with self._engine.begin() as connection:
            batch = _require(connection, _batches_of(tenant).with_for_update(), batch_id)
            if batch.status in (BatchStatus.CANCELLING, BatchStatus.CANCELLED):
                return batch
            if batch.status not in ACTIVE:
                raise Conflict(
                    f"{batch_id} is {batch.status.value}; a batch can be cancelled until it has ended",
                    "batch_id",
                    "invalid_state",
                )
            times = batch.times | {BatchStatus.CANCELLING.value: self._clock()}
            ending = update(BATCHES).where(BATCHES.c.id == batch_id)
            connection.execute(ending.values(status=BatchStatus.CANCELLING, times=times))
            return _require(connection, _batches_of(tenant), batch_id)

    def files_in_use(self) -> set[str]:
        """Ids of the input files of batches that have not ended."""
        with reading(self._engine) as connection:
            return set(connection.scalars(select(BATCHES.c.input_file).where(BATCHES.c.status.in_(ACTIVE))))


def _batches_of(tenant: str) -> Select[Any]:
    return select(BATCHES).where(BATCHES.c.tenant == tenant)


def _require(connection: Connection, query: Select[Any], batch_id: str) -> Batch:
    row = connection.execute(query.where(BATCHES.c.id == batch_id)).first()
    if row is None:
        raise NotFound(
            f"no batch {batch_id!r}; list them with GET /v1/batches", "batch_id", "batch_not_found"
        )
    return Batch.of_row(row)
