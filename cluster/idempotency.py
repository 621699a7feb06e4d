"""Creations that their callers may repeat, by the header Idempotency-Key; no answer is remembered for it.

What is made under a key has an id that follows from project, kind and key, so that a repeat finds the row that
an attempt before it has committed, whatever became of that attempt's answer. The row keeps a fingerprint of the
request, as what it says may have changed since, and a random seed was never asked for.
"""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass
from typing import Self

from sqlalchemy import Connection, Table, select
from sqlalchemy.engine import Engine

from cluster.database import reading, take_turns
from cluster.errors import Conflict, Unprocessable
from cluster.paging import GONE

HEADER = "Idempotency-Key"
# Of a table's `info`: how the ids of its rows begin.
ID_PREFIX = "id_prefix"
# 96 bits: random ids never meet, and nobody finds a key whose id is that of another project's object.
ID_DIGITS = 24


@dataclass(frozen=True)
class IdempotencyKey:
    """What a caller names a creation by, and the fingerprint of what is asked for: at most 64 characters."""

    name: str
    fingerprint: str


@dataclass(frozen=True)
class Identity:
    """The columns by which a repeat knows what is about to be made. Without a key there is no fingerprint."""

    id: str
    fingerprint: str | None = None

    @classmethod
    def of(cls, table: Table, tenant: str, key: IdempotencyKey | None) -> Self:
        """Of a row of `table`. With a key the id is always the same, without one it is random."""
        prefix = table.info[ID_PREFIX]
        if key is None:
            return cls(prefix + secrets.token_hex(ID_DIGITS // 2))
        named = "\0".join((tenant, prefix, key.name)).encode()
        return cls(prefix + hashlib.sha256(named).hexdigest()[:ID_DIGITS], key.fingerprint)


def made_before(engine: Engine, table: Table, tenant: str, key: IdempotencyKey | None) -> str | None:
    """The id of what the same request has made; None where it comes for the first time. Raises as `is_made`."""
    if key is None:
        return None
    identity = Identity.of(table, tenant, key)
    with reading(engine) as connection:
        return identity.id if is_made(connection, table, tenant, identity) else None


def is_made(connection: Connection, table: Table, tenant: str, identity: Identity) -> bool:
    """Whether a request of the same key has made this row before; it then was the same request.

    No other makes it until the end of the transaction. Raises Unprocessable where the key stands for another
    request, and Conflict where what it made was deleted, within the day for which the place of that is kept.
    """
    if identity.fingerprint is None:
        return False
    take_turns(connection, identity.id)
    deleted = select(GONE.c.id).where(GONE.c.owner == tenant, GONE.c.id == identity.id)
    if connection.execute(deleted).first() is not None:
        raise Conflict(
            f"{identity.id}, made under this {HEADER}, was deleted; send another key to make a new one",
            HEADER,
            "idempotency_key_used",
        )
    row = connection.execute(select(table.c.fingerprint).where(table.c.id == identity.id)).first()
    if row is not None and row.fingerprint != identity.fingerprint:
        raise Unprocessable(
            f"this {HEADER} stands for another request, which made {identity.id}; send a new key with each "
            "request, and the same one with its repeats alone",
            HEADER,
            "idempotency_key_reused",
        )
    return row is not None
