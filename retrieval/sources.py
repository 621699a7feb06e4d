"""Where files lie: local paths and fsspec URIs, and the document ids that they get."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import fsspec
from fsspec.implementations.local import LocalFileSystem

from cluster.errors import DataError, NotFound
from cluster.storage import GIVEN_ADDRESS, is_there, reaching


@dataclass(frozen=True)
class Source:
    """A file that can be read. `id` is its path below the working directory, or its whole path or URI.

    `root` is the whole path or URI of what was listed to find it.
    """

    id: str
    location: str
    root: str

    def read(self) -> bytes:
        """Its bytes.

        Raises OSError or DataError for a file that cannot be read, Unavailable for a store that is away.
        """
        if "://" not in self.root:
            file = Path(self.location.removeprefix("file://"))
            # To read a pipe would wait for whoever writes to it.
            if not file.is_file():
                raise DataError(
                    f"{self.id}: it is no file, but a pipe, a device, a folder that cannot be listed, or a link to a "
                    "folder or to nothing; leave it out, or name what the link shows"
                )
            return file.read_bytes()
        with reaching(self.location, "read", GIVEN_ADDRESS) as (filesystem, path):
            try:
                return bytes(filesystem.cat_file(path))
            except FileNotFoundError as exc:
                raise DataError(f"{self.id} vanished after it was listed") from exc


def find_sources(root: str) -> list[Source]:
    """The files of a path or URI, by id: itself, or all below a folder but hidden ones.

    Raises NotFound when there is nothing, Unavailable when the store of a URI cannot be reached.
    """
    with reaching(root, "list", GIVEN_ADDRESS) as (filesystem, path):
        if isinstance(filesystem, LocalFileSystem):
            path = _without_links(path)
        if not is_there(filesystem, path):
            found = []
        elif filesystem.isfile(path):
            found = [path]
        elif isinstance(filesystem, LocalFileSystem):
            found = list(_below(path))
        else:
            found = [name for name in filesystem.find(path) if not _is_hidden(name, path)]
    if not found:
        raise NotFound(f"no file at {root}; give a file, a folder with files, or a URI", "path")
    top = _whole(filesystem, path)
    sources = (
        Source(_short(_whole(filesystem, name)), str(filesystem.unstrip_protocol(name)), top)
        for name in found
    )
    return sorted(sources, key=lambda source: source.id)


def is_below(document_id: str, roots: Collection[str]) -> bool:
    """Whether a document came from one of the roots, which are whole paths or URIs.

    >>> is_below("s3://bucket/docs/leave.md", ["s3://bucket/docs"])
    True
    """
    whole = document_id if "://" in document_id else posixpath.join(Path.cwd().as_posix(), document_id)
    return any(whole == root or whole.startswith(root.rstrip("/") + "/") for root in roots)


def _below(root: str) -> Iterator[str]:
    """What lies below a folder of this machine, but what is hidden. Raises OSError when it cannot be listed.

    Folders in it that cannot be listed are named themselves, to be told: what was read in them leaves the index.
    """
    closed: list[OSError] = []
    for parent, folders, files in os.walk(root, onerror=closed.append):
        folders[:] = [name for name in folders if not name.startswith(".")]
        links = [name for name in folders if Path(parent, name).is_symlink()]
        yield from (posixpath.join(parent, name) for name in [*files, *links] if not name.startswith("."))
    for error in closed:
        if error.filename == root:
            raise error
        yield error.filename


def _without_links(root: str) -> str:
    """A root by the place where it is, so that its files have the same ids from wherever it is named.

    Links below it are not resolved: by where they lead, their documents would be below no root, and stay when the
    link is gone. So a root that is such a link keeps its name too.
    """
    folder, name = posixpath.split(root)
    return (
        posixpath.join(posixpath.realpath(folder), name) if Path(root).is_file() else posixpath.realpath(root)
    )


def _whole(filesystem: fsspec.AbstractFileSystem, name: str) -> str:
    """An absolute path, or a URI as its store spells it, whichever alias the root was given by."""
    return str(filesystem.unstrip_protocol(name)).removeprefix("file://")


def _short(whole: str) -> str:
    """The path below the working directory, where it is there."""
    path = Path(whole)
    return path.relative_to(Path.cwd()).as_posix() if path.is_relative_to(Path.cwd()) else whole


def _is_hidden(name: str, root: str) -> bool:
    return any(part.startswith(".") for part in posixpath.relpath(name, root).split("/"))
