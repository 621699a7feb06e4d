"""Pages of a listing: rows by (created_at, id), continued after the last row that was seen.

A cursor names a row, not a count, so that rows which come or go between two pages cause no repeat and no gap.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from sqlalchemy import Connection, Row, Select, Table, tuple_

from cluster.errors import NotFound

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
) -> Page[Row[Any]]:
    """A page of `query` over `table`, newest first unless `ascending`, of the rows behind the one named `after`.

    Or of those just in front of the one named `before`, in the listing's order; `after` wins over `before`.
    `query` has already been narrowed to the tenant. Raises NotFound when the cursor is none of its rows.
    """
    cursor = before if after is None else after
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


def cut(rows: Sequence[Item], limit: int) -> Page[Item]:
    """A page of at most `limit` of `rows`, which were asked for with one more to see whether there is any.

    >>> cut([1, 2, 3], 2)
    Page(data=[1, 2], has_more=True)
    """
    return Page(list(rows[:limit]), len(rows) > limit)
