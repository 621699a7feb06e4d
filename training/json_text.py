"""JSON as people write it: read it fast, or say exactly what is wrong with it, and where a value stands in it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from json.decoder import JSONDecoder, scanstring  # type: ignore[attr-defined]
from typing import Any

import orjson

from training.faults import At, Fault, show

BYTE_ORDER_MARK = "\ufeff"
CLOSING = {"{": "}", "[": "]"}
TYPOGRAPHIC_QUOTES = "“”„‟«»"
PYTHON_WORDS = ("True", "False", "None", "NaN", "Infinity", "-Infinity", "undefined")
SPACE = " \t\n\r"
DECODER = JSONDecoder()
TOO_DEEP = Fault("the line is nested too deep", "flatten it")


def parse_row(line: bytes) -> dict[str, Any] | Fault:
    """The object of one line, or its fault with the column (in characters, from 1)."""
    try:
        return as_row(orjson.loads(line))
    except orjson.JSONDecodeError:
        return _explain_bytes(line)


def parse_value(text: str) -> Any | Fault:
    """The value of a text by the same rules; the column of a fault counts from the start of the text."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return _explain(text)


def as_row(value: Any) -> dict[str, Any] | Fault:
    if isinstance(value, dict):
        return value
    return Fault(f"expected an object, found {show(value)}", "write one object, {…}, for each row")


def item_spans(text: str) -> Iterator[tuple[int, int]]:
    """Start and end of each item of the list that `text` is."""
    position = _skip_space(text, text.index("[") + 1)
    while text[position] != "]":
        _, end = DECODER.raw_decode(text, position)
        yield position, end
        position = _next_item(text, position)


def _explain_bytes(line: bytes) -> Fault:
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as exc:
        column = len(line[: exc.start].decode("utf-8", "replace")) + 1
        return Fault(f"byte 0x{line[exc.start]:02x} is not UTF-8", "convert the file to UTF-8", column=column)
    return _explain(text)


def _explain(text: str) -> Fault:
    """Why `text` is not a JSON value. Only called for text that is none."""
    if text.lstrip(SPACE).startswith(BYTE_ORDER_MARK):
        return Fault(
            "a byte-order mark stands inside the file (joined files?)", "remove the mark (U+FEFF)", column=1
        )
    try:
        json.loads(text, parse_constant=_refuse_constant)
    except json.JSONDecodeError as exc:
        return _name(text, exc)
    except ValueError as exc:  # from _refuse_constant
        word = str(exc)
        return Fault(f"{word} is not JSON", "write a number or null", column=_outside_strings(text, word) + 1)
    except RecursionError:
        return TOO_DEEP
    half = _lone_surrogate(text)
    if half is None:
        return TOO_DEEP
    return Fault(
        f"holds half of a character (the lone surrogate {text[half : half + 6]})",
        "write both halves, or the character itself",
        column=half + 1,
    )


def _name(text: str, exc: json.JSONDecodeError) -> Fault:
    """The mistake behind a decoder's complaint."""
    at = exc.pos
    column = at + 1
    rest = text[at:].rstrip()
    found = rest[:1]
    if exc.msg.startswith("Unterminated string") or not rest:
        return _half_written(text, exc)
    if exc.msg.startswith("Extra data"):
        return _extra_data(rest, column)
    if exc.msg.startswith("Invalid control character"):
        name = {"\t": "tab", "\n": "line end", "\r": "line end"}.get(
            text[at], f"character U+{ord(text[at]):04X}"
        )
        escape = json.dumps(text[at])[1:-1]
        return Fault(f"a bare {name} stands inside a text", f"write {escape} instead", column=column)
    if "escape" in exc.msg:
        return Fault("a backslash begins no JSON escape", "write \\\\ for a backslash", column=column)
    if found in "]}":
        return _wrong_bracket(text, at)
    if found in TYPOGRAPHIC_QUOTES or found == "'":
        return Fault(
            f"{found} does not begin a JSON text", 'write straight double quotes, "…"', column=column
        )
    word = next((word for word in PYTHON_WORDS if rest.startswith(word)), None)
    if word is not None:
        return Fault(f"{word} is not JSON", "write true, false, null or a number", column=column)
    before = text[:at].rstrip()
    if before.endswith('"') and exc.msg.startswith(("Expecting ',' delimiter", "Expecting ':' delimiter")):
        if found in '"{[':
            return Fault(f"a comma is missing before {found}", "put a comma there", column=column)
        return Fault(
            'a quotation mark inside the text ends it early: "' + rest[:12].split('"')[0] + "…",
            'write \\" for a quotation mark inside a text',
            column=len(before),
        )
    return Fault(f"not JSON ({exc.msg[0].lower()}{exc.msg[1:]})", "correct or remove the line", column=column)


def _half_written(text: str, exc: json.JSONDecodeError) -> Fault:
    is_string = exc.msg.startswith("Unterminated string")
    what = f"the text that begins at column {exc.pos + 1} is never closed" if is_string else ""
    missing = "".join(CLOSING[bracket] for bracket in reversed(open_brackets(text, len(text))))
    what = what or f"{missing or 'a value'} is missing at its end"
    return Fault(
        f"the JSON ends in the middle (half-written, cut off?): {what}",
        "complete it or remove it",
        column=len(text.rstrip()) + 1,
    )


def _extra_data(rest: str, column: int) -> Fault:
    if rest == ",":
        return Fault(
            "a comma stands after the object", "remove it: lines are not joined by commas", column=column
        )
    if rest[0] in "{[":
        return Fault(
            "a second value begins in the same line", "put each object in a line of its own", column=column
        )
    if rest[0] in "]}":
        return Fault(f"one {rest[0]} too many", "remove it", column=column)
    return Fault("text stands after the object", "remove it", column=column)


def _wrong_bracket(text: str, at: int) -> Fault:
    """A `]` or `}` where the decoder did not want one."""
    found, column = text[at], at + 1
    open_ones = open_brackets(text, at)
    due = CLOSING[open_ones[-1]] if open_ones else ""
    if text[:at].rstrip().endswith(","):
        return Fault(f"a comma stands before the closing {found}", "remove the comma", column=column)
    if found == due:
        return Fault(f"a value is missing before {found}", "write the value", column=column)
    if text[at:].strip() == "]}" and text[:at].rstrip().endswith("]"):
        return Fault(
            "the line ends in `]]}` where `]}` is due: one `]` too many",
            "end the line in `]}`",
            column=column,
        )
    if found == "]":
        return Fault(
            f"`]` stands where `{due}` is due: one `]` too many, or a `{due}` missing",
            "correct the brackets",
            column=column,
        )
    return Fault(f"`}}` stands where `{due}` is due: a `{due}` is missing", f"write `{due}}}`", column=column)


def open_brackets(text: str, end: int) -> list[str]:
    """The brackets still open at `end`, outermost first; those inside texts do not count."""
    stack: list[str] = []
    position = 0
    while position < end:
        character = text[position]
        if character == '"':
            position = _string_end(text, position)
            continue
        if character in "{[":
            stack.append(character)
        elif character in "}]" and stack:
            stack.pop()
        position += 1
    return stack


def column_of(text: str, path: At) -> int:
    """Column, from 1, of the key or item that `path` leads to; of what holds it, where it is absent.

    >>> column_of('{"messages": [{"role": "bot"}]}', ("messages", 0, "role"))
    16
    """
    value = place = _skip_space(text, 0)
    for key in path:
        found = _member(text, value, key) if isinstance(key, str) else _item(text, value, key)
        if found is None:
            break
        place, value = found
    return place + 1


def _member(text: str, start: int, name: str) -> tuple[int, int] | None:
    """Where key `name` of the object at `start` stands, and its value."""
    if text[start : start + 1] != "{":
        return None
    position, found = _skip_space(text, start + 1), None
    while text[position] == '"':
        key, end = scanstring(text, position + 1, True)
        value = _skip_space(text, _skip_space(text, end) + 1)
        if key == name:
            found = (position, value)  # the last of equal keys counts
        position = _next_item(text, value)
    return found


def _item(text: str, start: int, index: int) -> tuple[int, int] | None:
    """Where item `index` of the list at `start` stands, twice."""
    if text[start : start + 1] != "[":
        return None
    position = _skip_space(text, start + 1)
    for _ in range(index):
        if text[position] == "]":
            return None
        position = _next_item(text, position)
    return None if text[position] == "]" else (position, position)


def _next_item(text: str, value: int) -> int:
    _, end = DECODER.raw_decode(text, value)
    end = _skip_space(text, end)
    return _skip_space(text, end + 1) if text[end] == "," else end


def _skip_space(text: str, position: int) -> int:
    while position < len(text) and text[position] in SPACE:
        position += 1
    return position


def _string_end(text: str, start: int) -> int:
    """After the text that begins at `start`, closed or not."""
    position = start + 1
    while position < len(text) and text[position] != '"':
        position += 2 if text[position] == "\\" else 1
    return position + 1


def _outside_strings(text: str, word: str) -> int:
    """Where `word` stands outside texts; 0 when nowhere."""
    position = 0
    while position < len(text):
        if text.startswith(word, position):
            return position
        position = _string_end(text, position) if text[position] == '"' else position + 1
    return 0


def _lone_surrogate(text: str) -> int | None:
    """Where the first escape of half a character stands."""
    position = 0
    while position < len(text) - 1:
        if text[position] != "\\":
            position += 1
        elif (code := _escaped_code(text, position)) is None or not 0xD800 <= code < 0xE000:
            position += 2
        else:
            second = _escaped_code(text, position + 6)
            if code >= 0xDC00 or second is None or not 0xDC00 <= second < 0xE000:
                return position
            position += 12
    return None


def _escaped_code(text: str, position: int) -> int | None:
    if text[position : position + 2] != "\\u":
        return None
    return int(text[position + 2 : position + 6], 16)


def _refuse_constant(word: str) -> Any:
    raise ValueError(word)
