"""CSV, JSON and JSONL: rows and records."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from cluster.errors import DataError
from retrieval.documents import Content, Section, Table
from retrieval.readers.parts import Parts
from retrieval.readers.text import clean, decode


def read_csv(data: bytes) -> Content:
    """The file as it is: one table, the first line with anything in it the header."""
    text = clean(decode(data))
    table = Table(0, len(text), text.lstrip("\n").split("\n", 1)[0])
    return Content(text, (Section(0, len(text), tables=(table,)),))


def read_json(data: bytes) -> Content:
    """A list: one section for each item. Anything else: one section."""
    value = _parsed(clean(decode(data)), line=1)
    return _records(value if isinstance(value, list) else [value])


def read_jsonl(data: bytes) -> Content:
    """One section for each line. Raises DataError naming the line that is not JSON."""
    lines = clean(decode(data)).split("\n")
    return _records([_parsed(line, number) for number, line in enumerate(lines, start=1) if line.strip()])


def _parsed(text: str, line: int) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as exc:
        where = f"line {line + exc.lineno - 1}, column {exc.colno}"
        raise DataError(f"not JSON: {exc.msg} in {where}", "file", "damaged_file") from exc
    except ValueError as exc:  # Python reads no number of thousands of digits
        raise DataError(f"cannot be read: {exc}, in line {line} or below", "file", "damaged_file") from exc


def _records(values: list[Any]) -> Content:
    parts = Parts()
    for value in values:
        # Cleaned once more: JSON may write any character by its number.
        parts.add(clean("\n".join(_lines(value, ""))))
    return parts.content()


def _lines(value: Any, path: str) -> Iterator[str]:
    """`{"a": {"b": 1}}` as `a.b: 1`: words next to their key, without brackets.

    A key that repeats at every level of a deep file stays readable, and BM25 sees words only.
    """
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _lines(inner, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list) and any(isinstance(item, dict | list) for item in value):
        for index, inner in enumerate(value):
            yield from _lines(inner, f"{path}[{index}]")
    elif value is not None:
        items = value if isinstance(value, list) else [value]
        shown = ", ".join(str(item) for item in items if item is not None)
        yield f"{path}: {shown}" if path else shown
