"""Leases in SQL: of several processes that would do the same work, one holds it, until it stops renewing.

A holder that was suspended for longer than its lease may go on beside its successor; so what is done under a
lease must do no harm when it is done twice.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from sqlalchemy import Column, Double, String, Table, delete, insert, select, update
from sqlalchemy.engine import Engine
from sqlalchemy.exc import IntegrityError

from cluster.database import METADATA, open_database, reading

LEASES = Table(
    "leases",
    METADATA,
    Column("name", String(64), primary_key=True),
    Column("owner", String(64), nullable=False),
    Column("expires_at", Double, nullable=False),
)


class Leases:
    """Leases of one owner."""

    def __init__(
        self, owner: str, engine: Engine | None = None, clock: Callable[[], float] = time.time
    ) -> None:
        self._owner = owner
        self._engine = engine or open_database()
        self._clock = clock
        self._held_until: dict[str, float] = {}

    def hold(self, name: str, for_s: float) -> bool:
        """Take a lease that is free, expired or ours, for so long from now; whether it is ours.

        At least half of that time is left when it is ours: nothing is written while more than half is.
        """
        now = self._clock()
        left_s = self._held_until.get(name, now) - now
        if for_s / 2 < left_s <= for_s:  # more is left only where the clock was set back
            return True  # nobody else may take it before then
        values = {"owner": self._owner, "expires_at": now + for_s}
        free = (LEASES.c.owner == self._owner) | (LEASES.c.expires_at <= now)
        with self._engine.begin() as connection:
            taken = connection.execute(update(LEASES).where(LEASES.c.name == name, free).values(**values))
        is_ours = bool(taken.rowcount) or self._first(name, values)
        if is_ours:
            self._held_until[name] = now + for_s
        return is_ours

    def _first(self, name: str, values: dict[str, object]) -> bool:
        try:
            with self._engine.begin() as connection:
                connection.execute(insert(LEASES).values(name=name, **values))
        except IntegrityError:
            return False  # another holds it
        return True

    def num_held(self, prefix: str) -> int:
        """How many leases whose names begin so are held, by anyone. Those that nobody renewed are removed."""
        alike = LEASES.c.name.startswith(prefix, autoescape=True)
        with reading(self._engine) as connection:
            expiries = connection.scalars(select(LEASES.c.expires_at).where(alike)).all()
        now = self._clock()
        num_held = len([expires_at for expires_at in expiries if expires_at > now])
        if num_held < len(expiries):
            with self._engine.begin() as connection:
                connection.execute(delete(LEASES).where(alike, LEASES.c.expires_at <= now))
        return num_held

    def release(self, name: str) -> None:
        """Give a lease back before its time, so that another need not wait for it to expire."""
        self._held_until.pop(name, None)
        with self._engine.begin() as connection:
            mine = (LEASES.c.name == name) & (LEASES.c.owner == self._owner)
            connection.execute(delete(LEASES).where(mine))
