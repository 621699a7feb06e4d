"""What is still to be told to the webhook: written with the change that it tells of, in one transaction."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy import Column, Connection, Double, Integer, String, Table, delete, insert, select, update
from sqlalchemy.engine import Engine

from cluster.database import METADATA, open_database, reading
from cluster.settings import settings

OUTBOX = Table(
    "webhook_outbox",
    METADATA,
    Column("id", String(64), primary_key=True),
    Column("type", String(64), nullable=False),
    Column("object_id", String(64), nullable=False),
    Column("created_at", Double, nullable=False),
    Column("next_try_at", Double, nullable=False, index=True),
    Column("num_tries", Integer, nullable=False, default=0),
)


@dataclass(frozen=True)
class Delivery:
    """One event for the webhook. `id` stays the same over all tries."""

    id: str
    type: str
    object_id: str
    created_at: float
    next_try_at: float
    num_tries: int


def announce(connection: Connection, event_type: str, object_id: str, now: float) -> None:
    """Note, in the caller's transaction, that a job or batch has ended; nothing where no webhook is configured."""
    if settings().webhook_url is None:
        return
    connection.execute(
        insert(OUTBOX).values(
            id=f"evt_{secrets.token_hex(12)}",
            type=event_type,
            object_id=object_id,
            created_at=now,
            next_try_at=now,
        )
    )


class WebhookOutbox:
    """Deliveries that are due, and what became of them."""

    def __init__(self, engine: Engine | None = None, clock: Callable[[], float] = time.time) -> None:
        self._engine = engine or open_database()
        self._clock = clock

    def due(self) -> list[Delivery]:
        query = select(OUTBOX).where(OUTBOX.c.next_try_at <= self._clock()).order_by(OUTBOX.c.created_at)
        with reading(self._engine) as connection:
            return [Delivery(**row._mapping) for row in connection.execute(query)]

    def done(self, delivery: Delivery) -> None:
        """It was taken, or is given up."""
        with self._engine.begin() as connection:
            connection.execute(delete(OUTBOX).where(OUTBOX.c.id == delivery.id))

    def try_again(self, delivery: Delivery, in_s: float) -> None:
        with self._engine.begin() as connection:
            connection.execute(
                update(OUTBOX)
                .where(OUTBOX.c.id == delivery.id)
                .values(num_tries=delivery.num_tries + 1, next_try_at=self._clock() + in_s)
            )
