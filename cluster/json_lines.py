"""Lines of text and of JSON in a file that a user wrote, one at a time; a bad one is named by its number.

The first ends the reading; `training/row_files.py` and `serving/batch_input.py`, which list all, read for themselves.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from cluster.errors import DataError


def read_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line number and object of each line that is not blank. Raises DataError, also as `text_lines` does."""
    for number, line in text_lines(path):
        try:
            row = orjson.loads(line)
        except orjson.JSONDecodeError as exc:
            raise DataError(f"{path} line {number} is not JSON: {exc.msg} at column {exc.colno}") from exc
        if not isinstance(row, dict):
            raise DataError(f"{path} line {number} must be an object, got {type(row).__name__}")
        yield number, row


def text_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Number, from 1, and text of each line that is not blank, without its end.

    A byte-order mark before the first is dropped. Raises DataError for a line that is not UTF-8, and for a file
    that cannot be read.
    """
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                text = line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
                if text.strip():
                    yield number, text
    except UnicodeDecodeError as exc:
        raise DataError(f"{path} line {number} is not UTF-8; convert the file to UTF-8") from exc
    except OSError as exc:
        raise DataError(f"cannot read {path}: {exc.strerror}; give a text file in UTF-8") from exc
