from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.faults import Fault
from training.json_text import column_of, parse_row, parse_value


def fault_of(line: str) -> Fault:
    found = parse_row(line.encode())
    assert isinstance(found, Fault), found
    return found


MESSAGES = '{"messages": [{"role": "user", "content": "a"}'


@pytest.mark.parametrize(
    ("line", "marked", "reason"),
    [
        (MESSAGES + "]]}", "]}", "the line ends in `]]}` where `]}` is due: one `]` too many"),
        (MESSAGES + "}", "}", "`}` stands where `]` is due: a `]` is missing"),
        (MESSAGES + ",]}", "]}", "a comma stands before the closing ]"),
        (MESSAGES + "]},", ",", "a comma stands after the object"),
        (MESSAGES + ']} {"messages": []}', '{"messages": []}', "a second value begins in the same line"),
        (MESSAGES + "]}}", "}", "one } too many"),
        ('{"content": "say "hi" now"}', '"hi" now"}', "a quotation mark inside the text ends it early"),
        ('{"content": "a" "role": "user"}', '"role": "user"}', 'a comma is missing before "'),
        ("{'content': 'a'}", "'content': 'a'}", "' does not begin a JSON text"),
        ("{“content”: 1}", "“content”: 1}", "“ does not begin a JSON text"),
        ('{"a": None}', "None}", "None is not JSON"),
        ('{"a": NaN}', "NaN}", "NaN is not JSON"),
        ('{"a": "tab\there"}', "\there", "a bare tab stands inside a text"),
        ('{"a": "C:\\dir"}', '\\dir"}', "a backslash begins no JSON escape"),
        ('{"a": "\\ud83d\\ude00 \\ud83d"}', '\\ud83d"}', "holds half of a character"),
        ('{"a": "\\udc00"}', '\\udc00"}', "holds half of a character"),
        ('{"a": "cut of', "", "the text that begins at column 7 is never closed"),
        ('{"a": [{"b": 1', "", "half-written, cut off?): }]} is missing"),
        ("[1, 2]", None, "expected an object, found [1, 2]"),
        ("null", None, "expected an object, found null"),
    ],
)
def test_a_mistake_is_named_with_its_column(line: str, marked: str | None, reason: str) -> None:
    fault = fault_of(line)
    assert reason in fault.reason
    assert fault.remedy
    if marked is None:
        assert fault.column is None
    else:
        expected = line.rindex(marked) if marked else len(line)
        assert fault.column == expected + 1


def test_columns_count_characters_and_not_bytes() -> None:
    assert fault_of('{"ä": "😀" "b": 1}').column == 11


def test_bytes_that_are_no_utf8_are_told() -> None:
    found = parse_row(b'{"a": "\xe9"}')
    assert isinstance(found, Fault)
    assert (found.column, found.reason) == (8, "byte 0xe9 is not UTF-8")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(st.text(max_size=3), JSON), st.booleans())
def test_what_json_writes_is_read_back(value: dict[str, object], ensure_ascii: bool) -> None:
    assert parse_row(json.dumps(value, ensure_ascii=ensure_ascii).encode()) == value


@given(st.text(alphabet='{}[]",:\\ua1 tn.-', max_size=20))
def test_every_text_is_read_or_explained(text: str) -> None:
    found = parse_value(text)
    if isinstance(found, Fault):
        assert found.reason
        assert found.column is None or 1 <= found.column <= len(text) + 1
    else:
        assert json.loads(text) == found


@given(st.lists(JSON, min_size=1, max_size=5), st.data())
def test_the_column_of_an_item_is_where_its_text_begins(values: list[object], data: st.DataObject) -> None:
    index = data.draw(st.integers(0, len(values) - 1))
    text = json.dumps({"before": [1, {"a": "]"}], "items": values})
    assert text[column_of(text, ("items", index)) - 1 :].startswith(json.dumps(values[index]))


def test_what_is_absent_is_placed_at_what_should_hold_it() -> None:
    text = '{"messages": [{"role": "tool"}]}'
    assert column_of(text, ("messages", 0, "tool_call_id")) == text.index('{"role') + 1
    assert column_of(text, ("messages", 0, "role")) == text.index('"role') + 1


@pytest.mark.parametrize("depth", [1100, 100_000])
def test_a_line_that_is_nested_too_deep_is_a_fault(depth: int) -> None:
    assert fault_of('{"a": ' + "[" * depth + "]" * depth + "}").reason == "the line is nested too deep"
