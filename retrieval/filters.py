"""Filters: OpenAI's vector-store form, checked, and what it means.

    {"type": "eq", "key": "department", "value": "hr"}                eq ne gt gte lt lte in nin
    {"type": "and", "filters": [...]}                                 and or not

`matches` is the definition that every store is tested against. A missing key equals nothing: `ne` and `nin`
hold for it, all others do not. A list holds a value when one of its items does. Ranges are of numbers; keep
dates as numbers (20261125, or seconds since 1970).
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeAlias

from cluster.errors import InvalidInput

# A filter deeper than this is a mistake or an attack; no store needs to see it.
MAX_DEPTH = 8
MAX_CONDITIONS = 256


class FieldType(StrEnum):
    """What a metadata key holds, fixed by the first document that has it."""

    STRING = "string"
    NUMBER = "number"
    BOOLEAN = "boolean"


class Op(StrEnum):
    EQ = "eq"
    NE = "ne"
    GT = "gt"
    GTE = "gte"
    LT = "lt"
    LTE = "lte"
    IN = "in"
    NIN = "nin"


RANGES = {Op.GT: operator.gt, Op.GTE: operator.ge, Op.LT: operator.lt, Op.LTE: operator.le}
FilterValue: TypeAlias = str | float | bool


@dataclass(frozen=True)
class Comparison:
    """`key` is a payload path (`metadata.department`); `values` has one item, or several for in and nin."""

    key: str
    op: Op
    values: tuple[FilterValue, ...]


@dataclass(frozen=True)
class And:
    filters: tuple[Filter, ...]


@dataclass(frozen=True)
class Or:
    filters: tuple[Filter, ...]


@dataclass(frozen=True)
class Not:
    filter: Filter


Filter: TypeAlias = Comparison | And | Or | Not


def equals(key: str, value: FilterValue) -> Comparison:
    return Comparison(key, Op.EQ, (value,))


def one_of(key: str, values: Iterable[FilterValue]) -> Comparison:
    return Comparison(key, Op.IN, tuple(values))


def at_least(key: str, value: float) -> Comparison:
    return Comparison(key, Op.GTE, (value,))


def parse_filter(raw: object, fields: Mapping[str, FieldType], param: str = "filters") -> Filter:
    """A checked filter on metadata from what a caller sent.

    `fields` are the keys that may be named, with their types; they become `metadata.<key>` paths, so that no
    caller can name the tenant or another field of ours. Raises InvalidInput naming the place in `raw`, and
    listing the known keys for an unknown one.
    """
    budget = [MAX_CONDITIONS]
    return _parse(raw, fields, param, 0, budget)


def _parse(raw: object, fields: Mapping[str, FieldType], at: str, depth: int, budget: list[int]) -> Filter:
    budget[0] -= 1
    if budget[0] < 0 or depth > MAX_DEPTH:
        raise InvalidInput(
            f"{at}: a filter may have {MAX_CONDITIONS} conditions in {MAX_DEPTH} levels at most", at
        )
    if not isinstance(raw, Mapping):
        raise InvalidInput(f"{at} must be an object with a type, not {type(raw).__name__}", at)
    kind = raw.get("type")
    if kind in ("and", "or", "not"):
        _only_keys(raw, {"type", "filters"}, at)
        parts = raw.get("filters")
        if not isinstance(parts, list | tuple) or not parts or (kind == "not" and len(parts) != 1):
            count = "exactly one filter" if kind == "not" else "at least one filter"
            raise InvalidInput(f"{at}.filters must be a list of {count}", f"{at}.filters")
        inner = tuple(
            _parse(part, fields, f"{at}.filters[{index}]", depth + 1, budget)
            for index, part in enumerate(parts)
        )
        if kind == "not":
            return Not(inner[0])
        return And(inner) if kind == "and" else Or(inner)
    if kind in list(Op):
        _only_keys(raw, {"type", "key", "value"}, at)
        return _comparison(raw, Op(kind), fields, at)
    known = ", ".join([*Op, "and", "or", "not"])
    raise InvalidInput(f"{at}.type is {kind!r}; use one of {known}", f"{at}.type")


def _only_keys(raw: Mapping[str, Any], allowed: set[str], at: str) -> None:
    extra = sorted(str(key) for key in raw if key not in allowed)
    if extra:
        raise InvalidInput(f"{at} has unknown keys: {', '.join(extra)}", f"{at}.{extra[0]}")


def _comparison(raw: Mapping[str, Any], op: Op, fields: Mapping[str, FieldType], at: str) -> Comparison:
    key = raw.get("key")
    if not isinstance(key, str) or key not in fields:
        known = ", ".join(sorted(fields)) or "none (no document has metadata yet)"
        raise InvalidInput(f"{at}.key is {key!r}, which no document has; known keys: {known}", f"{at}.key")
    value = raw.get("value")
    if op in (Op.IN, Op.NIN):
        if not isinstance(value, list | tuple) or not value:
            raise InvalidInput(f"{at}.value must be a list of at least one value for {op}", f"{at}.value")
        values = tuple(value)
    else:
        values = (value,)
    for item in values:
        _require_type(item, fields[key], key, at)
    if op in RANGES and fields[key] is not FieldType.NUMBER:
        raise InvalidInput(
            f"{at}: {op} compares numbers, and {key} holds {fields[key]}s; keep dates as numbers",
            f"{at}.type",
        )
    return Comparison(f"metadata.{key}", op, values)


def _require_type(value: object, expected: FieldType, key: str, at: str) -> None:
    try:
        actual = field_type(value)
    except TypeError:
        actual = None
    # A document may hold a list; a condition compares with one value.
    if actual is not expected or isinstance(value, list | tuple):
        raise InvalidInput(f"{at}.value is {value!r}, but {key} holds {expected}s", f"{at}.value")


def field_type(value: object) -> FieldType:
    """The type of a metadata value. Raises TypeError for what cannot be filtered by (null, NaN, objects)."""
    if isinstance(value, bool):
        return FieldType.BOOLEAN
    if isinstance(value, int | float) and abs(value) <= 2**53:
        return FieldType.NUMBER
    if isinstance(value, str) or (
        isinstance(value, list | tuple) and value and all(isinstance(item, str) for item in value)
    ):
        return FieldType.STRING
    raise TypeError(f"{value!r} is not a string, a number, a boolean or a list of strings")


def matches(where: Filter, payload: Mapping[str, Any]) -> bool:
    """Whether a payload passes a filter: the meaning of filters, in plain Python."""
    match where:
        case And(filters):
            return all(matches(part, payload) for part in filters)
        case Or(filters):
            return any(matches(part, payload) for part in filters)
        case Not(inner):
            return not matches(inner, payload)
        case Comparison(key, op, values):
            found = _lookup(payload, key)
            if op in RANGES:
                return any(_in_range(item, op, values[0]) for item in found)
            hit = any(_same(item, value) for item in found for value in values)
            return not hit if op in (Op.NE, Op.NIN) else hit


def _lookup(payload: Mapping[str, Any], path: str) -> list[Any]:
    # One level of nesting is all that is ever written: `metadata.<key>`.
    head, _, rest = path.partition(".")
    value = payload.get(head)
    if rest:
        value = value.get(rest) if isinstance(value, Mapping) else None
    if value is None:
        return []
    return list(value) if isinstance(value, list | tuple) else [value]


def _same(left: object, right: object) -> bool:
    # 1 == True in Python, and in no filter.
    return isinstance(left, bool) == isinstance(right, bool) and left == right


def _in_range(item: object, op: Op, bound: object) -> bool:
    if isinstance(item, bool) or not isinstance(item, int | float) or not isinstance(bound, int | float):
        return False
    return bool(RANGES[op](item, bound))
