"""Pages of a listing: rows by (created_at, id), continued after the last row that was seen.

A cursor names a row, not a count, so that rows which come or go between two pages cause no repeat and no gap. The
row that it names may be gone too: a client that deletes what it lists goes on behind what it has deleted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from sqlalchemy import (
    Column,
    Connection,
    Double,
    Index,
    Row,
    Select,
    String,
    Table,
    delete,
    insert,
    select,
    tuple_,
)

from cluster.database import METADATA
from cluster.errors import NotFound

# How long a client may take from one page to the next.
PLACES_KEPT_S = 24 * 3600.0

GONE = Table(
    "gone_rows",
    METADATA,
    Column("owner", String(64), nullable=False),
    Column("id", String(64), nullable=False),
    Column("created_at", Double, nullable=False),
    Column("gone_at", Double, nullable=False, index=True),
    Index("ix_gone_rows_place", "owner", "id"),
)

Item = TypeVar("Item")
Other = TypeVar("Other")


@dataclass(frozen=True)
class Page(Generic[Item]):
    """One page, and whether another follows."""

    data: list[Item]
    has_more: bool = False

    def map(self, make: Callable[[Item], Other]) -> Page[Other]:
        return Page([make(item) for item in self.data], self.has_more)


def page_of_rows(
    connection: Connection,
    query: Select[Any],
    table: Table,
    *,
    limit: int,
    after: str | None = None,
    before: str | None = None,
    ascending: bool = False,
    cursors: Select[Any] | None = None,
    owner: str | None = None,
) -> Page[Row[Any]]:
    """A page of `query` over `table`, newest first unless `ascending`, of the rows behind the one named `after`.

    Or of those just in front of the one named `before`, in the listing's order; `after` wins over `before`.
    `query` has already been narrowed to the tenant. A cursor is one of its rows, or of those of `cursors`, which
    are more where a row can leave the listing, or one that is gone from `owner`. Raises NotFound for any other.
    """
    cursor = before if after is None else after
    # What stands in front of a row is what stands behind it in the other direction, turned round.
    backwards = after is None and before is not None
    rising = ascending is not backwards
    columns = (table.c.created_at, table.c.id)
    if cursor is not None:
        wider = query if cursors is None else cursors
        row = connection.execute(wider.where(table.c.id == cursor)).first()
        if row is None:
            gone = select(GONE).where(GONE.c.owner == owner, GONE.c.id == cursor)
            row = connection.execute(gone.order_by(GONE.c.gone_at.desc())).first()
        if row is None:
            name = "before" if backwards else "after"
            raise NotFound(f"{name}: there is no {cursor!r} here; give an id of a page before", name)
        seen = tuple_(row.created_at, row.id)
        query = query.where(tuple_(*columns) > seen if rising else tuple_(*columns) < seen)
    ordered = query.order_by(*(column.asc() if rising else column.desc() for column in columns))
    page = cut(connection.execute(ordered.limit(limit + 1)).all(), limit)
    return Page(page.data[::-1], page.has_more) if backwards else page


def keep_places(connection: Connection, rows: Sequence[tuple[str, str, float]], now: float) -> None:
    """Note where these rows (owner, id, created_at) stood, in the transaction that removes or hides them."""
    connection.execute(delete(GONE).where(GONE.c.gone_at < now - PLACES_KEPT_S))
    values = [
        {"owner": owner, "id": id_, "created_at": created_at, "gone_at": now}
        for owner, id_, created_at in rows
    ]
    if values:
        connection.execute(insert(GONE), values)


def cut(rows: Sequence[Item], limit: int) -> Page[Item]:
    """A page of at most `limit` of `rows`, which were asked for with one more to see whether there is any.

    >>> cut([1, 2, 3], 2)
    Page(data=[1, 2], has_more=True)
    """
    return Page(list(rows[:limit]), len(rows) > limit)
