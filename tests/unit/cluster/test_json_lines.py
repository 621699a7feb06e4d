"""A user's lines, one at a time, and how a bad one is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.errors import DataError
from cluster.json_lines import read_rows, text_lines


def test_rows_are_read_one_at_a_time_and_a_bad_one_is_named_by_its_line(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"text": "one\xe2\x80\xa8line"}\n\n{"text": "caf\xe9"}\n')
    rows = read_rows(path)
    assert next(rows) == (1, {"text": "one\u2028line"})
    with pytest.raises(DataError, match=r"rows\.jsonl line 3 is not UTF-8"):
        next(rows)


def test_a_byte_order_mark_is_dropped_before_the_file_and_kept_within_a_text(tmp_path: Path) -> None:
    path = tmp_path / "qrels.tsv"
    path.write_bytes("\ufeffa\tb\r\n \r\n\ufeffc\n".encode())
    assert list(text_lines(path)) == [(1, "a\tb"), (3, "\ufeffc")]


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ('{"a": }', "is not JSON: .* at column 7"),
        ("[1]", "must be an object, got list"),
        ('{"a": NaN}', "is not JSON"),
        ('{"a": ' + "9" * 5000 + "}", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
    ],
)
def test_a_line_that_is_no_object_is_named(tmp_path: Path, line: str, told: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(f"{{}}\n{line}\n")
    with pytest.raises(DataError, match=rf"rows\.jsonl line 2 {told}"):
        list(read_rows(path))


def test_a_file_that_cannot_be_read_is_told_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot read .*: Is a directory"):
        list(read_rows(tmp_path))
