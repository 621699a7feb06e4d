"""From a file or a hub data set to rows, with the line each came from.

Owns where rows come from and how validation rows are held out. File forms are in `training/row_files.py`.
Knows nothing of tasks: a row is a dictionary of columns.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path

from cluster.errors import DataError, HubUnreachable
from cluster.hub import hub_is_reachable
from cluster.storage import local_copy
from training.config import DataConfig
from training.faults import Fault
from training.row_files import Row, data_files, scan, without_filled_nulls


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
    rows = _rows_of_first_source(config)
    if not rows.train or not rows.validation:
        raise DataError(
            f"{rows.description} is too small to split off validation rows: {len(rows.train)} training and "
            f"{len(rows.validation)} validation rows; give files of both as data.path and data.validation_path",
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


def read_file(path: str | Path) -> list[Row]:
    """All rows of one file, or of all files below a folder; a URI is fetched first.

    Raises DataError for the first bad row, with file, line and remedy.
    """
    local = local_copy(str(path))
    rows: list[Row] = []
    for file in data_files(local):
        name = file.relative_to(local).as_posix() if file != local else ""
        for found, _ in scan(file):
            if isinstance(found, Fault):
                raise found.to_error(str(file))
            rows.append(replace(found, file=name) if name else found)
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


def _from_files(path: str, validation_path: str | None, config: DataConfig) -> Rows:
    train = read_file(path)
    if validation_path is not None:
        validation = read_file(validation_path)
    else:
        train, validation = split_by_hash(train, config.validation_share)
    return Rows(train[: config.limit], validation[: config.limit], str(path))


def _from_hub(reference: str, config: DataConfig) -> Rows:
    if not hub_is_reachable():
        raise HubUnreachable(
            f"the data hub cannot be reached for {reference}; give data.path or data.fallback_path",
            "data.hub",
        )
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
    except (OSError, ConnectionError) as exc:
        raise HubUnreachable(
            f"the data hub cannot be reached for {reference}; give data.path or data.fallback_path",
            "data.hub",
        ) from exc
    if "train" not in splits:
        raise DataError(
            f"the data set {reference!r} has no split train, only {', '.join(splits)}; download the file to train "
            "on and give data.path",
            "data.hub",
        )
    train = [Row(number, without_filled_nulls(row)) for number, row in enumerate(splits["train"], 1)]
    if "validation" in splits:
        validation = [
            Row(number, without_filled_nulls(row)) for number, row in enumerate(splits["validation"], 1)
        ]
    else:
        train, validation = split_by_hash(train, config.validation_share)
    return Rows(train[: config.limit], validation[: config.limit], reference)
