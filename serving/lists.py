"""OpenAI's list object: one page of a listing with the ids that it begins and ends with. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from cluster.paging import Page

Item = TypeVar("Item")


def list_object(
    page: Page[Item], make: Callable[[Item], dict[str, Any]], no_id: str | None = ""
) -> dict[str, Any]:
    """A `list` of what `make` makes of each item. An empty one has `no_id` as its first and last id.

    OpenAI's schema takes null there in some lists, and in others a text alone.
    """
    data = [make(item) for item in page.data]
    return {
        "object": "list",
        "data": data,
        "first_id": data[0]["id"] if data else no_id,
        "last_id": data[-1]["id"] if data else no_id,
        "has_more": page.has_more,
    }
