"""Cutting documents and filling collections as a user does: by `python -m retrieval`, in a process of its own."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from cluster.errors import JobFailed
from evaluation.pairs import Passage

logger = logging.getLogger(__name__)


def ingest(folder: Path, collection: str) -> float:
    """Make the collection agree with the folder; returns seconds, start-up included. Raises JobFailed."""
    started = time.monotonic()
    _retrieval("ingest", str(folder), "--collection", collection)
    return time.monotonic() - started


def passages_of(folder: Path) -> list[Passage]:
    """What retrieval would index of a folder, without overlap. Raises JobFailed."""
    printed = _retrieval("chunks", str(folder), "--chunk-overlap-tokens", "0")
    # Not splitlines(), which also cuts at characters that JSON strings may hold.
    rows = [json.loads(line) for line in printed.split("\n") if line]
    return [Passage(PurePosixPath(row["document"]).name, row["context"], row["text"]) for row in rows]


def drop(collection: str) -> None:
    _retrieval("delete", "--collection", collection, "--whole-collection")


def _retrieval(*arguments: str) -> str:
    """What the command prints."""
    result = run(("-m", "retrieval", *arguments))
    if result.returncode:
        words = " ".join((result.stderr or result.stdout).split())[-500:]
        raise JobFailed(f"python -m retrieval {arguments[0]} failed: {words}")
    for line in result.stderr.splitlines():
        if line.startswith("skipped "):
            logger.warning("%s", line)
    return result.stdout


def run(arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True)
