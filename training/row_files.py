"""From a data file to rows, one at a time: by its form, with the line of each, faults in place of bad rows.

Memory stays flat for the forms that are read by lines (JSONL, CSV, TSV, text) and for Parquet, which is
read by row groups. Nothing is inferred from a first block of rows: every value keeps the type its file
form gives it.
"""

from __future__ import annotations

import codecs
import csv
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from cluster.errors import DataError
from training.faults import Fault
from training.json_text import as_row, item_spans, parse_row, parse_value

SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".txt", ".md", ".parquet")
# MSR's own header of the paraphrase corpus, and the names its columns get here.
MSR_HEADER = ["Quality", "#1 ID", "#2 ID", "#1 String", "#2 String"]
MSR_COLUMNS = ["label", "id1", "id2", "sentence1", "sentence2"]
# A longer field is a quotation mark that was never closed.
MAX_FIELD_CHARACTERS = 16 * 2**20
# Rows of Parquet that are Python objects at once. pyarrow's 65,536 took 660 MB where they were long chats.
PARQUET_ROWS = 1000


@dataclass(frozen=True, slots=True)
class Row:
    """One row: its columns, its line (or row number for Parquet and hub data), from 1.

    `file` is its file below the data folder, when a folder was read.
    """

    line: int
    columns: dict[str, Any]
    file: str = ""

    @property
    def where(self) -> str:
        """`line 3`, or `part.jsonl, line 3`."""
        return f"{self.file}, line {self.line}" if self.file else f"line {self.line}"


class Scanned(NamedTuple):
    """A row or the fault in its place, and the text it was read from (empty for Parquet)."""

    found: Row | Fault
    raw: bytes | str

    @property
    def text(self) -> str:
        # Decoded when asked for, which is when there is a fault to show.
        return self.raw if isinstance(self.raw, str) else self.raw.rstrip(b"\r\n").decode("utf-8", "replace")


def scan(path: Path) -> Iterator[Scanned]:
    """The rows of one file, by its suffix. A byte-order mark at its start is dropped, one inside text kept.

    Raises DataError when the file as a whole cannot be read.
    """
    suffix = path.suffix.lower()
    if not path.is_file():
        raise DataError(f"no file {path}; give a path that exists (relative to {Path.cwd()})", "data.path")
    if suffix not in SUFFIXES:
        raise DataError(
            f"{path}: unknown form {suffix or 'without suffix'!r}; use {', '.join(SUFFIXES)}", "data.path"
        )
    if suffix == ".parquet":
        return _scan_parquet(path)
    _refuse_utf16(path)
    if suffix in (".jsonl", ".ndjson"):
        return _scan_jsonl(path)
    if suffix == ".json":
        return _scan_json(path)
    if suffix in (".md", ".txt") and not _is_table(path):
        return _scan_paragraphs(path)
    return _scan_table(path, "," if suffix == ".csv" else "\t")


def data_files(path: Path) -> list[Path]:
    """The file itself, or all data files below a folder in the order of their names."""
    if not path.is_dir():
        return [path]
    files = sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
    if not files:
        raise DataError(f"{path} holds no data files; known forms are {', '.join(SUFFIXES)}", "data.path")
    return files


def _scan_jsonl(path: Path) -> Iterator[Scanned]:
    with path.open("rb") as file:
        is_first = True
        for number, raw in enumerate(file, 1):
            line = raw.removeprefix(codecs.BOM_UTF8) if number == 1 else raw
            stripped = line.strip()
            if not stripped:
                continue
            if is_first and stripped in (b"{", b"["):
                reason = "a row is spread over several lines; JSONL holds one whole object in each line"
                fault = Fault(reason, "write one line a row, or name the file .json", line=number)
                yield Scanned(fault, line)
                return
            is_first = False
            found = parse_row(line)
            yield Scanned(_at_line(found, number), line)


def _scan_json(path: Path) -> Iterator[Scanned]:
    """One list of objects. The whole file is read: for what exceeds memory there is JSONL."""
    content = path.read_bytes().removeprefix(codecs.BOM_UTF8)
    try:
        text = content.decode()
    except UnicodeDecodeError as exc:
        line = content[: exc.start].count(b"\n") + 1
        yield Scanned(Fault("not UTF-8", "convert the file to UTF-8", line=line), "")
        return
    values = parse_value(text)
    if isinstance(values, Fault):
        start = text.rfind("\n", 0, (values.column or 1) - 1) + 1
        fault = replace(values, line=text.count("\n", 0, start) + 1, column=(values.column or 1) - start)
        yield Scanned(fault, text[start:].split("\n", 1)[0])
        return
    if not isinstance(values, list):
        raise DataError(
            f"{path}: a .json file must hold one list of objects; one object per line is .jsonl", "data.path"
        )
    line, counted = 1, 0
    for (start, end), value in zip(item_spans(text), values, strict=True):
        line, counted = line + text.count("\n", counted, start), start
        yield Scanned(_at_line(as_row(value), line), text[start:end])


def _scan_paragraphs(path: Path) -> Iterator[Scanned]:
    """Plain text: a row is a paragraph, that is, lines up to a blank one."""
    decoded = _DecodedLines(path)
    paragraph: list[str] = []
    first = 0
    for number, line in enumerate(decoded, 1):
        if line.strip():
            first = first if paragraph else number
            paragraph.append(line)
        elif paragraph:
            yield Scanned(Row(first, {"text": "".join(paragraph).strip()}), paragraph[0])
            paragraph = []
        yield from decoded.take_faults()
    if paragraph:
        yield Scanned(Row(first, {"text": "".join(paragraph).strip()}), paragraph[0])


def _is_table(path: Path) -> bool:
    """Whether a .txt or .md file is a table: its first line has a tab, as MSR's corpus has."""
    with path.open("rb") as file:
        return b"\t" in file.readline()


class _DecodedLines:
    """The lines of a file as text, line ends kept. Bytes that are not UTF-8 become faults, not an end."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._faults: list[Scanned] = []
        self.recent: list[str] = []

    def __iter__(self) -> Iterator[str]:
        with self._path.open("rb") as file:
            for number, raw in enumerate(file, 1):
                raw = raw.removeprefix(codecs.BOM_UTF8) if number == 1 else raw
                try:
                    line = raw.decode()
                except UnicodeDecodeError as exc:
                    line = raw.decode("utf-8", "replace")
                    column = len(raw[: exc.start].decode("utf-8", "replace")) + 1
                    fault = Fault("not UTF-8", "convert the file to UTF-8", (), number, column)
                    self._faults.append(Scanned(fault, line.rstrip("\r\n")))
                self.recent.append(line)
                yield line

    def take_faults(self) -> list[Scanned]:
        faults, self._faults = self._faults, []
        return faults


def _scan_table(path: Path, delimiter: str) -> Iterator[Scanned]:
    # TSV in the wild does not quote: a `"` is a character of the text. CSV does.
    quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if delimiter == "," else csv.QUOTE_NONE
    csv.field_size_limit(MAX_FIELD_CHARACTERS)
    lines = _DecodedLines(path)
    reader = csv.reader(iter(lines), delimiter=delimiter, quoting=quoting, strict=True)
    header: list[str] | None = None
    while True:
        line = reader.line_num + 1  # where the row begins: a quoted field may hold line ends
        lines.recent.clear()
        try:
            fields = next(reader, None)
        except csv.Error as exc:
            yield Scanned(_csv_fault(exc, line), lines.recent[0].rstrip("\r\n") if lines.recent else "")
            if header is None:  # the next row is none
                return
            continue
        yield from lines.take_faults()
        if fields is None:
            return
        text = "".join(lines.recent).rstrip("\r\n")
        if header is None:
            header = [name.strip() for name in fields]
            twice = _header_fault(header)
            if twice is not None:
                yield Scanned(twice, text)
                return
        elif any(field.strip() for field in fields):
            yield Scanned(_table_row(fields, header, line), text)


def _csv_fault(error: csv.Error, line: int) -> Fault:
    if str(error).startswith("new-line character"):
        remedy = "remove it; where it ends all lines, write line feeds in its place"
        return Fault("a carriage return stands inside a field", remedy, line=line)
    return Fault(f"{error}", "correct the row that begins there", line=line)


def _header_fault(header: list[str]) -> Fault | None:
    twice = next((name for name in header if header.count(name) > 1), None)
    if twice is None:
        return None
    return Fault(f"the column {twice!r} occurs twice", "rename one", line=1)


def _table_row(fields: list[str], header: list[str], line: int) -> Row | Fault:
    columns = MSR_COLUMNS if header == MSR_HEADER else header
    if len(fields) != len(columns):
        return Fault(
            f"{len(fields)} fields, but the header has {len(columns)} ({', '.join(columns)})",
            "a field may hold the separator; quote it (CSV) or remove the separator",
            line=line,
        )
    again, first = [_name(field) for field in fields], [_name(name) for name in header]
    if sorted(again) == sorted(first):
        remedy = "remove the line"
        if again != first:
            remedy += f", and put the fields of the rows below it in the order {', '.join(header)}"
        return Fault("the header stands here a second time (joined files?)", remedy, line=line)
    return Row(line, dict(zip(columns, fields, strict=True)))


def _name(field: str) -> str:
    """A column's name as headers of joined files differ in it: by a byte-order mark, quotes and case."""
    return field.strip().removeprefix("\ufeff").strip('"').strip().casefold()


def _scan_parquet(path: Path) -> Iterator[Scanned]:
    # Late: half a second that other forms need not wait for.
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(path)
        number = 0
        for batch in file.iter_batches(batch_size=PARQUET_ROWS):
            for columns in batch.to_pylist():
                number += 1
                yield Scanned(Row(number, without_filled_nulls(columns)), "")
    except (UnicodeDecodeError, OverflowError) as exc:
        raise DataError(
            f"{path}: a value after row {number} cannot be read ({exc}); write text as UTF-8, and dates of the "
            "years 1 to 9999",
            "data.path",
        ) from exc
    except (pyarrow.ArrowInvalid, OSError) as exc:
        raise DataError(
            f"{path}: not Parquet, or cut off ({exc}); write the file again", "data.path"
        ) from exc


def without_filled_nulls(columns: dict[str, Any]) -> dict[str, Any]:
    """A row of Arrow with its columns as they were written.

    Arrow gives the objects of one column the keys of all of them, null where a row had none: a call's
    arguments would be those of every other function too. A null column stays, as a table's does.
    """
    return {name: _without_nulls(value) for name, value in columns.items()}


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_without_nulls(item) for item in value]
    return value


def _at_line(found: dict[str, Any] | Fault, line: int) -> Row | Fault:
    return replace(found, line=line) if isinstance(found, Fault) else Row(line, found)


def _refuse_utf16(path: Path) -> None:
    try:
        with path.open("rb") as file:
            beginning = file.read(2)
    except OSError as exc:
        raise DataError(
            f"{path} cannot be read ({exc.strerror}); check its permissions", "data.path"
        ) from exc
    if beginning in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        raise DataError(f"{path}, line 1: UTF-16, not UTF-8; convert the file to UTF-8", "data.path")
