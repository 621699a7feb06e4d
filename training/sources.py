"""From a file or a hub data set to rows, with the line each came from.

Owns where rows come from and how validation rows are held out. File forms are in `training/row_files.py`.
Knows nothing of tasks but that rows may have a class: a row is a dictionary of columns. Rows are read one at a
time, and never lie in memory together.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import chain, filterfalse, islice
from pathlib import Path
from typing import Any, NamedTuple

from cluster.errors import DataError, HubUnreachable
from cluster.hub import hub_is_reachable
from cluster.storage import local_copy
from training.classification_rows import label_text
from training.config import DataConfig
from training.faults import Fault
from training.row_files import Row, data_files, scan, without_filled_nulls


class Census(NamedTuple):
    """How many rows there are, and a digest of their content, the same wherever the file lies."""

    num_train: int
    num_validation: int
    sha256: str


@dataclass(frozen=True)
class RowStream:
    """Rows that are read anew, one at a time, whenever they are iterated."""

    read: Callable[[], Iterable[Row]]

    def __iter__(self) -> Iterator[Row]:
        return iter(self.read())


@dataclass(frozen=True)
class Rows:
    """The training and validation rows of a run, and where they came from. Both can be iterated again.

    `is_split`: the validation rows are a share of the training file.
    """

    train: Iterable[Row]
    validation: Iterable[Row]
    description: str
    is_split: bool = False

    @property
    def validation_file(self) -> str:
        """What the file of the validation rows is called in a message."""
        return "training file" if self.is_split else "validation file"

    @cached_property
    def census(self) -> Census:
        """Read once and remembered: a file may change or go while a run trains."""
        digest = hashlib.sha256()
        return Census(_add_up(self.train, digest), _add_up(self.validation, digest), digest.hexdigest())


def load_rows(config: DataConfig, label_column: str | None = None) -> Rows:
    """The rows of a run: `path` when given, else the hub, else the fallback file.

    With `label_column` the training rows have every class: no share that is split off takes the last rows of one.
    Raises DataError with file, line and remedy, or HubUnreachable when the hub was the only source.
    """
    rows = _rows_of_first_source(config)
    if rows.is_split and label_column is not None:
        rows = _with_every_class_in_training(rows, label_column)
    num_train, num_validation, _ = rows.census
    if not num_train or not num_validation:
        raise DataError(
            f"{rows.description} is too small to split off validation rows: {num_train} training and "
            f"{num_validation} validation rows; give files of both as data.path and data.validation_path",
            "data.validation_path",
        )
    return rows


def _rows_of_first_source(config: DataConfig) -> Rows:
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


def read_rows(path: str | Path) -> RowStream:
    """The rows of one file, or of all files below a folder; a URI is fetched first.

    Iterating them raises DataError at the first bad row, with file, line and remedy.
    """
    return RowStream(partial(_read, local_copy(str(path)), str(path)))


def split_by_hash(rows: Iterable[Row], share: float) -> tuple[RowStream, RowStream]:
    """Training and validation rows: about `share` of them is held out, by a hash of their content.

    A row lands on the same side whatever else is in the file, and equal rows land together, so adding
    data later never moves a validation row into training.
    """
    held_out = partial(_is_held_out, share=share)
    return RowStream(lambda: filterfalse(held_out, rows)), RowStream(lambda: filter(held_out, rows))


def _from_files(path: str, validation_path: str | None, config: DataConfig) -> Rows:
    held_out = read_rows(validation_path) if validation_path is not None else None
    return _sides(read_rows(path), held_out, config, str(path))


def _sides(train: RowStream, held_out: RowStream | None, config: DataConfig, description: str) -> Rows:
    """Both sides within the limit; without rows that were held out, some are."""
    is_split = held_out is None
    if held_out is None:
        train, held_out = split_by_hash(train, config.validation_share)
    first, first_held_out = (RowStream(partial(islice, rows, config.limit)) for rows in (train, held_out))
    return Rows(first, first_held_out, description, is_split)


def _with_every_class_in_training(rows: Rows, label_column: str) -> Rows:
    """Rows of a class that training would lack go there, whichever they are: by their label and not by their number."""
    in_training, held_out = (
        {label_text(row.columns, label_column) for row in side} for side in (rows.train, rows.validation)
    )
    lacking = held_out - in_training
    if not lacking:
        return rows

    def is_lacking(row: Row) -> bool:
        return label_text(row.columns, label_column) in lacking

    train = RowStream(lambda: chain(rows.train, filter(is_lacking, rows.validation)))
    return replace(rows, train=train, validation=RowStream(lambda: filterfalse(is_lacking, rows.validation)))


def _read(local: Path, given: str) -> Iterator[Row]:
    """The rows at `local`, which the user called `given`."""
    is_empty = True
    for file in data_files(local):
        name = file.relative_to(local).as_posix() if file != local else ""
        for found, _ in scan(file):
            if isinstance(found, Fault):
                raise found.to_error(str(file))
            is_empty = False
            yield replace(found, file=name) if name else found
    if is_empty:
        raise DataError(f"{given} holds no rows", "data.path")


def _is_held_out(row: Row, share: float) -> bool:
    content = json.dumps(row.columns, sort_keys=True, default=str).encode()
    return int.from_bytes(hashlib.sha256(content).digest()[:8]) / 2**64 < share


def _add_up(rows: Iterable[Row], digest: Any) -> int:
    """Add the content of all rows to a digest; how many they are."""
    count = 0
    for count, row in enumerate(rows, 1):  # noqa: B007 - the last one counts
        digest.update(json.dumps(row.columns, sort_keys=True, ensure_ascii=False, default=str).encode())
    return count


def _from_hub(reference: str, config: DataConfig) -> Rows:
    unreachable = HubUnreachable(
        f"the data hub cannot be reached for {reference}; give data.path or data.fallback_path", "data.hub"
    )
    if not hub_is_reachable():
        raise unreachable
    # Late: `datasets` costs a second to import and files do not need it.
    from datasets import load_dataset
    from datasets.exceptions import DatasetNotFoundError, DatasetsError

    name, _, subset = reference.partition(":")
    try:
        splits = load_dataset(name, subset or None)
    except DatasetNotFoundError as exc:
        raise DataError(f"no data set {reference!r} on the hub; check data.hub", "data.hub") from exc
    except (DatasetsError, ValueError, RuntimeError) as exc:
        # A config that is not named or unknown, rows that differ in their types, a script in place of files.
        reason = " ".join(str(exc.__cause__ or exc).splitlines()[:2])
        raise DataError(
            f"the data set {reference!r} cannot be loaded ({reason}); name its config as data.hub=id:config, or "
            "download the file and give data.path",
            "data.hub",
        ) from exc
    except OSError as exc:
        raise unreachable from exc
    if "train" not in splits:
        raise DataError(
            f"the data set {reference!r} has no split train, only {', '.join(splits)}; download the file to train "
            "on and give data.path",
            "data.hub",
        )
    held_out = RowStream(partial(_numbered, splits["validation"])) if "validation" in splits else None
    return _sides(RowStream(partial(_numbered, splits["train"])), held_out, config, reference)


def _numbered(split: Iterable[dict[str, Any]]) -> Iterator[Row]:
    return (Row(number, without_filled_nulls(columns)) for number, columns in enumerate(split, 1))
