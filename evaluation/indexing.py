"""Cutting documents and filling collections as a user does: by `python -m retrieval`, in a process of its own."""

from __future__ import annotations

import hashlib
import json
import logging
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from cluster.child import reason_of, run_module
from cluster.errors import DataError, JobFailed
from evaluation.pairs import Passage

log = logging.getLogger(__name__)

# As the command prints it.
_COUNTS = re.compile(r"(\d+) documents added, (\d+) updated, (\d+) unchanged")


class Ingest(NamedTuple):
    seconds: float  # start-up included
    is_whole: bool  # whether every document was new, so that the time is that of all of them


def ingest(folder: Path, collection: str) -> Ingest:
    """Make the collection agree with the folder. Raises JobFailed."""
    started = time.monotonic()
    printed = _retrieval("ingest", str(folder), "--collection", collection)
    return Ingest(time.monotonic() - started, adds_all(printed))


@contextmanager
def study_collection(run_id: str, name: str, folder: Path) -> Iterator[str]:
    """A collection of this folder and nothing else, for as long as it is used. Raises JobFailed.

    By the comparison's id: in one that others fill too, their copies of the same documents would be found.
    """
    collection = f"{run_id}-{name}"
    ingest(folder, collection)
    try:
        yield collection
    finally:
        try:
            _retrieval("delete", "--collection", collection, "--whole-collection")
        except JobFailed as exc:  # what was measured, or what went wrong before, is not lost for it
            log.warning("the collection %s is left behind: %s", collection, exc.message)


def adds_all(printed: str) -> bool:
    """Whether an ingestion found none of its documents in the collection.

    "handbook: 12 documents added, 0 updated, 0 unchanged, 0 removed, 0 skipped" -> True
    """
    counts = _COUNTS.search(printed)
    return counts is not None and int(counts[1]) > 0 and int(counts[2]) + int(counts[3]) == 0


def documents_digest(folder: Path | None) -> str:
    """Changes when a file below the folder does, or its name; empty without a folder.

    Raises DataError for a file that cannot be read.
    """
    if folder is None:
        return ""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        try:
            with path.open("rb") as file:
                content = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as exc:
            raise DataError(
                f"cannot read {path}: {exc.strerror}; make it readable, or take it out of the documents",
                "documents",
            ) from exc
        digest.update(f"{path.relative_to(folder).as_posix()}\0{content}\n".encode())
    return digest.hexdigest()[:16]


def passages_of(folder: Path) -> list[Passage]:
    """What retrieval would index of a folder, without overlap. Raises JobFailed."""
    printed = _retrieval("chunks", str(folder), "--chunk-overlap-tokens", "0")
    # Not splitlines(), which also cuts at characters that JSON strings may hold.
    rows = [json.loads(line) for line in printed.split("\n") if line]
    return [Passage(PurePosixPath(row["document"]).name, row["context"], row["text"]) for row in rows]


def _retrieval(*arguments: str) -> str:
    """What the command prints."""
    result = run_module("retrieval", *arguments)
    if result.returncode:
        raise JobFailed(f"python -m retrieval {arguments[0]} failed: {reason_of(result)}")
    for line in result.stderr.splitlines():
        if line.startswith("skipped "):
            log.warning("%s", line)
    return result.stdout
