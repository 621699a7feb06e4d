"""How much of a kind one tenant may have at a time."""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import Connection, Table, func, select

from cluster.database import take_turns
from cluster.errors import Overloaded

# When to ask again while as many are active as may be.
FULL_RETRY_S = 60.0


def require_fewer_active(
    connection: Connection, table: Table, what: str, tenant: str, active: Collection[str], max_active: int
) -> None:
    """Raises Overloaded where `max_active` of a tenant's rows have a status in `active`; the message calls them `what`.

    What it counts stays true until the end of the transaction, which adds one more.
    """
    take_turns(connection, f"{table.name} of {tenant}")
    found = select(func.count()).where(table.c.tenant == tenant, table.c.status.in_(active))
    if int(connection.scalar(found) or 0) >= max_active:
        raise Overloaded(
            f"{max_active} {what} have not ended yet, the most there may be; cancel one or wait",
            retry_after_s=FULL_RETRY_S,
        )
