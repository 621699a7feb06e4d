"""From a file or a hub data set to rows, with the line each came from.

Owns file forms and encodings. Knows nothing of tasks: a row is a dictionary of columns. Nothing is
inferred from a first block of rows; every value keeps the type its file form gives it.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from cluster.errors import DataError, HubUnreachable
from cluster.hub import hub_is_reachable
from training.config import DataConfig

# MSR's own header of the paraphrase corpus, and the names its columns get here.
MSR_HEADER = ["Quality", "#1 ID", "#2 ID", "#1 String", "#2 String"]
MSR_COLUMNS = ["label", "id1", "id2", "sentence1", "sentence2"]


@dataclass(frozen=True, slots=True)
class Row:
    """One row: its columns, and its line (or row number for Parquet and hub data), from 1."""

    line: int
    columns: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Rows:
    """The training and validation rows of a run, and where they came from."""

    train: list[Row]
    validation: list[Row]
    description: str

    @property
    def sha256(self) -> str:
        """A digest of the content, the same wherever the file lies."""
        digest = hashlib.sha256()
        for row in [*self.train, *self.validation]:
            digest.update(json.dumps(row.columns, sort_keys=True, ensure_ascii=False, default=str).encode())
        return digest.hexdigest()


def load_rows(config: DataConfig) -> Rows:
    """The rows of a run: `path` when given, else the hub, else the fallback file.

    Raises DataError with file, line and remedy, or HubUnreachable when the hub was the only source.
    """
    if config.path is not None:
        return _from_files(config.path, config.validation_path, config)
    if config.hub is not None:
        try:
            return _from_hub(config.hub, config)
        except HubUnreachable:
            if config.fallback_path is None:
                raise
    if config.fallback_path is None:  # refused by DataConfig already
        raise DataError("data names no source", "data")
    rows = _from_files(config.fallback_path, config.fallback_validation_path, config)
    because = f" (the hub's {config.hub} cannot be reached)" if config.hub else ""
    return replace(rows, description=rows.description + because)


def read_file(path: Path) -> list[Row]:
    """All rows of one file, by its suffix. A byte-order mark at the start is dropped, one inside kept."""
    if not path.is_file():
        raise DataError(f"no file {path}; give a path that exists (relative to {Path.cwd()})", "data.path")
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        rows = list(_read_parquet(path))
    else:
        text = _decode(path)
        if suffix in (".jsonl", ".ndjson"):
            rows = list(_read_jsonl(text, path))
        elif suffix == ".json":
            rows = list(_read_json(text, path))
        elif suffix in (".tsv", ".txt", ".csv"):
            rows = list(_read_table(text, path, "," if suffix == ".csv" else "\t"))
        else:
            raise DataError(
                f"{path}: unknown form {suffix or 'without suffix'!r}; use .jsonl, .json, .csv, .tsv or .parquet",
                "data.path",
            )
    if not rows:
        raise DataError(f"{path} holds no rows", "data.path")
    return rows


def split_by_hash(rows: list[Row], share: float) -> tuple[list[Row], list[Row]]:
    """Split off about `share` of the rows by a hash of their content.

    A row lands on the same side whatever else is in the file, and equal rows land together, so adding
    data later never moves a validation row into training.
    """
    train: list[Row] = []
    held_out: list[Row] = []
    for row in rows:
        content = json.dumps(row.columns, sort_keys=True, default=str).encode()
        fraction = int.from_bytes(hashlib.sha256(content).digest()[:8]) / 2**64
        (held_out if fraction < share else train).append(row)
    return train, held_out


def _from_files(path: Path, validation_path: Path | None, config: DataConfig) -> Rows:
    train = read_file(path)
    if validation_path is not None:
        validation = read_file(validation_path)
    else:
        train, validation = split_by_hash(train, config.validation_share)
        if not train or not validation:
            raise DataError(f"{path} is too small to split off validation rows; give data.validation_path")
    train = train[: config.limit]
    return Rows(train, validation[: config.limit], str(path))


def _from_hub(reference: str, config: DataConfig) -> Rows:
    if not hub_is_reachable():
        raise HubUnreachable(
            f"the data hub cannot be reached for {reference}; give data.path or data.fallback_path",
            "data.hub",
        )
    # Late: `datasets` costs a second to import and files do not need it.
    from datasets import load_dataset
    from datasets.exceptions import DatasetNotFoundError

    name, _, subset = reference.partition(":")
    try:
        splits = load_dataset(name, subset or None)
    except DatasetNotFoundError as exc:
        raise DataError(f"no data set {reference!r} on the hub; check data.hub", "data.hub") from exc
    except (OSError, ConnectionError) as exc:
        raise HubUnreachable(
            f"the data hub cannot be reached for {reference}; give data.path or data.fallback_path",
            "data.hub",
        ) from exc
    train = [Row(number, dict(row)) for number, row in enumerate(splits["train"], 1)]
    if "validation" in splits:
        validation = [Row(number, dict(row)) for number, row in enumerate(splits["validation"], 1)]
    else:
        train, validation = split_by_hash(train, config.validation_share)
    return Rows(train[: config.limit], validation[: config.limit], reference)


def _decode(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        line = path.read_bytes()[: exc.start].count(b"\n") + 1
        raise DataError(f"{path}, line {line}: not UTF-8; convert the file to UTF-8", "data.path") from exc


def _read_jsonl(text: str, path: Path) -> Iterator[Row]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except json.JSONDecodeError as exc:
            raise DataError(
                f"{path}, line {number}, column {exc.colno}: not JSON ({exc.msg}); correct or remove the line",
                "data.path",
            ) from exc
        where = f"{path}, line {number}"
        if "\\ud" in line.lower():  # an escape of half a character is JSON, but no text
            _require_whole_characters(value, where)
        yield Row(number, _require_object(value, where))


def _read_json(text: str, path: Path) -> Iterator[Row]:
    try:
        values = json.loads(text)
    except json.JSONDecodeError as exc:
        raise DataError(f"{path}, line {exc.lineno}, column {exc.colno}: not JSON ({exc.msg})") from exc
    if not isinstance(values, list):
        raise DataError(f"{path}: a .json file must hold one list of objects; one object per line is .jsonl")
    for number, value in enumerate(values, 1):
        where = f"{path}, item {number}"
        _require_whole_characters(value, where)
        yield Row(number, _require_object(value, where))


def _require_whole_characters(value: Any, where: str) -> None:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as exc:
        raise DataError(
            f"{where}: holds half of a character (a lone surrogate escape); correct or remove it", "data.path"
        ) from exc


def _require_object(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise DataError(f"{where}: expected an object, found {type(value).__name__}", "data.path")
    return value


def _read_table(text: str, path: Path, delimiter: str) -> Iterator[Row]:
    # TSV in the wild does not quote: a `"` is a character of the text. CSV does.
    quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if delimiter == "," else csv.QUOTE_NONE
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, quoting=quoting, strict=True)
    line = 1  # where the row begins: a quoted field may hold line ends
    try:
        header = [name.strip() for name in next(reader, [])]
        _require_distinct(header, path)
        columns = MSR_COLUMNS if header == MSR_HEADER else header
        line = reader.line_num + 1
        for fields in reader:
            if any(field.strip() for field in fields):
                yield Row(line, _table_row(fields, header, columns, f"{path}, line {line}"))
            line = reader.line_num + 1
    except csv.Error as exc:
        raise DataError(
            f"{path}, line {line}: {exc}; correct the row that begins there", "data.path"
        ) from exc


def _require_distinct(header: list[str], path: Path) -> None:
    twice = next((name for name in header if header.count(name) > 1), None)
    if twice is not None:
        raise DataError(f"{path}, line 1: the column {twice!r} occurs twice; rename one", "data.path")


def _table_row(fields: list[str], header: list[str], columns: list[str], where: str) -> dict[str, Any]:
    if len(fields) != len(columns):
        raise DataError(
            f"{where}: {len(fields)} fields, but the header has {len(columns)} ({', '.join(columns)}); "
            "a field may hold the separator",
            "data.path",
        )
    if [field.strip() for field in fields] == header:
        raise DataError(
            f"{where}: the header stands here a second time (joined files?); remove the line", "data.path"
        )
    return dict(zip(columns, fields, strict=True))


def _read_parquet(path: Path) -> Iterator[Row]:
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(path)
    except pyarrow.ArrowInvalid as exc:
        raise DataError(
            f"{path}: not Parquet, or cut off ({exc}); write the file again", "data.path"
        ) from exc
    for number, row in enumerate(table.to_pylist(), 1):
        yield Row(number, row)
