"""Aliases, the names that callers give to registered models: which of them are free. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection

from cluster.builtin import PACKAGES
from cluster.errors import Conflict, InvalidInput
from cluster.router_policy import AUTO

# Neither an id, which has colons, nor a name with the router's +rag.
ALIAS_PATTERN = r"^[a-z0-9][a-z0-9._-]{0,63}$"
# What every deployment reads in its own way, or may: the router's `auto`, and base models by their short names.
RESERVED = frozenset({AUTO, *PACKAGES})


def require_alias(alias: str, taken: Collection[str] = RESERVED) -> None:
    """Raises InvalidInput for what is no alias, and Conflict for a name that means something else already.

    Such an alias would be accepted and have no effect: a base model's name goes before it.
    """
    if not re.fullmatch(ALIAS_PATTERN, alias):
        raise InvalidInput(
            f"alias: {alias!r} is no alias; use 1 to 64 small letters, digits, dots, dashes and underscores",
            "alias",
        )
    if alias in taken:
        raise Conflict(
            f"alias: {alias!r} names a base model or a route already; choose another name", "alias"
        )
