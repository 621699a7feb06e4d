"""The audit log: who did which state-changing call on what, and how it ended. Rows are only ever added."""

from __future__ import annotations

import time
from dataclasses import dataclass

from sqlalchemy import BigInteger, Column, Double, Integer, String, Table, insert, select
from sqlalchemy.engine import Engine
from sqlalchemy.exc import SQLAlchemyError

from cluster.database import METADATA, open_database, reading
from cluster.errors import Unavailable

AUDIT_EVENTS = Table(
    "audit_events",
    METADATA,
    # SQLite counts only an INTEGER key up by itself.
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("at", Double, nullable=False, index=True),
    Column("tenant", String(64), nullable=False, index=True),
    Column("actor", String(128), nullable=False),
    Column("action", String(512), nullable=False),
    Column("object_id", String(512), nullable=False),
    Column("status", Integer, nullable=False),
    Column("request_id", String(128), nullable=False),
)


@dataclass(frozen=True)
class AuditEvent:
    """One call. `actor` is the id of a key, `anonymous` where none is asked for, or a user at a command line.

    `action` is what was called (`POST /v1/files`, `keys revoke`), `object_id` what it made or changed where the
    action does not say it, `status` the HTTP status that it ended with, `at` in Unix seconds.
    """

    tenant: str
    actor: str
    action: str
    object_id: str
    status: int = 200
    request_id: str = ""
    at: float = 0.0


class AuditLog:
    """Events in the state database."""

    def __init__(self, engine: Engine | None = None) -> None:
        self._engine = engine or open_database()

    def add(self, event: AuditEvent) -> None:
        """Write an event; it is durable on return. Raises Unavailable."""
        row = {name: _cut(name, value) for name, value in vars(event).items()}
        try:
            with self._engine.begin() as connection:
                connection.execute(insert(AUDIT_EVENTS).values(**row | {"at": event.at or time.time()}))
        except SQLAlchemyError as exc:
            raise Unavailable(
                f"the audit log cannot be written ({exc.__class__.__name__}); try again shortly"
            ) from exc

    def newest(self, limit: int = 100, tenant: str | None = None) -> list[AuditEvent]:
        """The last events, newest first; of one tenant or of all."""
        columns = [column for column in AUDIT_EVENTS.c if column.name != "id"]
        query = select(*columns).order_by(AUDIT_EVENTS.c.id.desc()).limit(limit)
        if tenant is not None:
            query = query.where(AUDIT_EVENTS.c.tenant == tenant)
        with reading(self._engine) as connection:
            return [AuditEvent(**row) for row in connection.execute(query).mappings()]


def _cut(column: str, value: object) -> object:
    """A text as its column bears it: paths are the caller's, of any length, and PostgreSQL keeps no NUL."""
    length = getattr(AUDIT_EVENTS.c[column].type, "length", None)
    return value[:length].replace("\0", "\N{REPLACEMENT CHARACTER}") if isinstance(value, str) else value
