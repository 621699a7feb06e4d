"""Where files lie: local paths and fsspec URIs, and the document ids that they get."""

from __future__ import annotations

import posixpath
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import fsspec

from cluster.errors import NotFound
from cluster.storage import GIVEN_ADDRESS, is_there, reaching


@dataclass(frozen=True)
class Source:
    """A file that can be read. `id` is its path below the working directory, or its whole path or URI."""

    id: str
    location: str

    def read(self) -> bytes:
        """Its bytes. Raises OSError."""
        with fsspec.open(self.location, "rb") as file:
            return bytes(file.read())


def find_sources(root: str) -> list[Source]:
    """The files of a path or URI, by id: itself, or all below a folder but hidden ones.

    Raises NotFound when there is nothing, Unavailable when the store of a URI cannot be reached.
    """
    with reaching(root, "list", GIVEN_ADDRESS) as (filesystem, path):
        if not is_there(filesystem, path):
            found = []
        elif filesystem.isfile(path):
            found = [path]
        else:
            found = [name for name in filesystem.find(path) if not _is_hidden(name, path)]
    if not found:
        raise NotFound(f"no file at {root}; give a file, a folder with files, or a URI", "path")
    sources = (
        Source(source_id(filesystem.unstrip_protocol(name)), _location(filesystem, name)) for name in found
    )
    return sorted(sources, key=lambda source: source.id)


def source_id(uri: str) -> str:
    """The id of a file: the same from wherever it is named, and short below the working directory.

    >>> source_id("s3://bucket/docs/leave.md")
    's3://bucket/docs/leave.md'
    """
    path = uri.removeprefix("file://").removeprefix("local://")
    if "://" in path:
        return path
    absolute = Path(path).resolve()
    return (
        absolute.relative_to(Path.cwd()).as_posix() if absolute.is_relative_to(Path.cwd()) else str(absolute)
    )


def is_below(document_id: str, roots: Sequence[str]) -> bool:
    """Whether a document came from one of the roots (ids of files or folders)."""
    return any(root in (".", document_id) or document_id.startswith(root.rstrip("/") + "/") for root in roots)


def _location(filesystem: fsspec.AbstractFileSystem, name: str) -> str:
    return str(filesystem.unstrip_protocol(name))


def _is_hidden(name: str, root: str) -> bool:
    return any(part.startswith(".") for part in posixpath.relpath(name, root).split("/"))
