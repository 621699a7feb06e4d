"""Our filters in the embedded engine's form.

qdrant-edge-py 0.9.0 takes `MatchValue(True)` for the integer 1, which matches no boolean. Booleans are
therefore stored a second time, as words under BOOLEANS, and looked for there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import qdrant_edge as edge

from retrieval.filters import RANGES, And, Comparison, FieldType, Filter, Not, Op, Or

BOOLEANS = "booleans"


def with_booleans(payload: Mapping[str, Any]) -> dict[str, Any]:
    """The payload as it is written."""
    metadata = payload.get("metadata", {})
    words = {key: str(value).lower() for key, value in metadata.items() if isinstance(value, bool)}
    return {**payload, BOOLEANS: words} if words else dict(payload)


def without_booleans(payload: Mapping[str, Any] | None) -> dict[str, Any]:
    """The payload as it was given."""
    return {key: value for key, value in (payload or {}).items() if key != BOOLEANS}


def field_path(key: str, kind: FieldType) -> str:
    """Where the index of a metadata key lies."""
    return f"{BOOLEANS}.{key}" if kind is FieldType.BOOLEAN else f"metadata.{key}"


def to_edge(where: Filter) -> edge.Filter:
    match where:
        case And(filters):
            return edge.Filter(must=[to_edge(part) for part in filters])
        case Or(filters):
            return edge.Filter(should=[to_edge(part) for part in filters])
        case Not(inner):
            return edge.Filter(must_not=[to_edge(inner)])
        case Comparison(key, op, values):
            if op in RANGES:
                bounds = {op.value: float(values[0])}
                return edge.Filter(must=[edge.FieldCondition(key, range=edge.RangeFloat(**bounds))])
            conditions: list[Any] = [_equals(key, value) for value in values]
            if op in (Op.NE, Op.NIN):
                return edge.Filter(must_not=conditions)
            return edge.Filter(should=conditions)


def _equals(key: str, value: str | float | bool) -> edge.FieldCondition:
    if isinstance(value, bool):
        path = field_path(key.removeprefix("metadata."), FieldType.BOOLEAN)
        return edge.FieldCondition(path, match=edge.MatchValue(str(value).lower()))
    if isinstance(value, str):
        return edge.FieldCondition(key, match=edge.MatchValue(value))
    # The engine matches integers by value and fractions only by range.
    return edge.FieldCondition(key, range=edge.RangeFloat(gte=value, lte=value))
