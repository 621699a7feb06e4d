from __future__ import annotations

import codecs
import io
import json
from typing import Any

import pytest

from serving.batch_input import MAX_FAULTS, MAX_LINE_BYTES, check, rows

EMBED = "/v1/embeddings"
GOOD = {"custom_id": "a", "method": "POST", "url": EMBED, "body": {"model": "minilm", "input": "x"}}


def faults(*lines: Any, endpoint: str = EMBED, max_rows: int = 10_000) -> list[tuple[Any, ...]]:
    text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    checked = check(io.BytesIO(text.encode()), endpoint, max_rows)
    return [(fault["line"], fault["code"], fault["param"]) for fault in checked.faults]


def test_every_fault_is_told_by_its_line() -> None:
    assert faults(
        GOOD,
        "{",
        GOOD,
        "",
        [],
        {**GOOD, "custom_id": "b", "method": "GET", "url": "/v1/rerank", "extra": 1},
        {"custom_id": ""},
        {**GOOD, "custom_id": "c", "body": {"model": "minilm", "input": ["x", ""]}},
        {**GOOD, "custom_id": "d", "body": {"input": "x"}},
        {**GOOD, "custom_id": "e", "body": []},
    ) == [
        (2, "invalid_json_line", None),
        (3, "duplicate_custom_id", "custom_id"),
        (5, "invalid_request", None),
        (6, "unsupported_parameter", "extra"),
        (6, "invalid_method", "method"),
        (6, "invalid_url", "url"),
        (7, "missing_required_parameter", "method"),
        (7, "missing_required_parameter", "url"),
        (7, "missing_required_parameter", "body"),
        (7, "invalid_value", "custom_id"),
        (8, "invalid_value", "body.input[1]"),
        (9, "missing_required_parameter", "body.model"),
        (10, "invalid_value", "body"),
    ]


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (b'{"custom_id": "caf\xe9"}', "the line is not UTF-8; convert the file to UTF-8"),
        (b"{a", "the line is no JSON: unexpected character, expected a string key at column 2"),
    ],
)
def test_a_line_that_cannot_be_read_is_told_with_what_is_wrong_in_it(line: bytes, told: str) -> None:
    [fault] = check(io.BytesIO(b"\n" + line), EMBED, 10).faults
    assert (fault["line"], fault["message"]) == (2, told)


def test_nobody_can_be_streamed_to() -> None:
    chat = "/v1/chat/completions"
    body = {"model": "m", "messages": [{"role": "user", "content": "x"}], "stream": True}
    row = {**GOOD, "url": chat, "body": body}
    assert faults(row, endpoint=chat) == [(1, "unsupported_value", "body.stream")]
    assert faults({**row, "body": body | {"stream": False}}, endpoint=chat) == []


@pytest.mark.parametrize("text", ["", "\n \n"])
def test_an_input_without_requests_is_refused(text: str) -> None:
    assert faults(text) == [(None, "empty_file", "input_file_id")]


def test_an_input_of_too_many_requests_is_read_no_further() -> None:
    found = faults(*({**GOOD, "custom_id": str(number)} for number in range(5)), "{", max_rows=3)
    assert found == [(4, "too_many_requests", "input_file_id")]


def test_the_last_fault_that_is_listed_says_how_many_there_are() -> None:
    checked = check(io.BytesIO(b"{\n" * (MAX_FAULTS + 7)), EMBED, 10_000)
    assert len(checked.faults) == MAX_FAULTS
    assert (
        checked.faults[-1]["message"] == f"there are {MAX_FAULTS + 7:,} faults; {MAX_FAULTS - 1} are listed"
    )


def test_a_line_too_long_for_memory_is_one_fault_and_the_next_line_is_read() -> None:
    text = json.dumps({**GOOD, "body": {"model": "minilm", "input": "x" * 2 * MAX_LINE_BYTES}})
    assert faults(text, GOOD, "[") == [(1, "line_too_long", None), (3, "invalid_json_line", None)]


def test_rows_keep_the_numbers_of_their_lines_and_one_model_is_named() -> None:
    text = f"\n{json.dumps(GOOD)}\r\n\n{json.dumps({**GOOD, 'custom_id': 'b'})}".encode()
    assert [(row.line, row.custom_id) for row in rows(io.BytesIO(text))] == [(2, "a"), (4, "b")]
    checked = check(io.BytesIO(text), EMBED, 10)
    assert (checked.num_rows, checked.model, checked.faults) == (2, "minilm", [])


@pytest.mark.parametrize("name", ["m" * 256, "mini\0lm"])
def test_what_can_be_no_models_name_is_not_kept_as_one_and_is_answered_by_row(name: str) -> None:
    row = {**GOOD, "body": {"model": name, "input": "x"}}
    checked = check(io.BytesIO(json.dumps(row).encode()), EMBED, 10)
    assert (checked.num_rows, checked.faults, checked.model) == (1, [], None)


def test_a_byte_order_mark_before_the_file_changes_nothing_and_one_within_a_text_stays() -> None:
    body = {"model": "minilm", "input": "\ufeffx"}
    lines = [json.dumps({**GOOD, "body": body}, ensure_ascii=False)]
    lines.append(json.dumps({**GOOD, "custom_id": "b"}))
    plain = "\n".join(lines).encode()
    marked = codecs.BOM_UTF8 + plain
    assert check(io.BytesIO(marked), EMBED, 10) == check(io.BytesIO(plain), EMBED, 10)
    assert check(io.BytesIO(marked), EMBED, 10).num_faults == 0
    assert list(rows(io.BytesIO(marked))) == list(rows(io.BytesIO(plain)))
    assert next(rows(io.BytesIO(marked))).body["input"] == "\ufeffx"


@pytest.mark.parametrize("start", ["\n", f"{json.dumps(GOOD)}\n"])
def test_a_byte_order_mark_before_another_line_is_no_json(start: str) -> None:
    checked = check(io.BytesIO(f"{start}\ufeff{json.dumps(GOOD)}".encode()), EMBED, 10)
    assert [(fault["line"], fault["code"]) for fault in checked.faults] == [(2, "invalid_json_line")]
