"""Single files in storage, a local folder or any fsspec URI, however large they are.

Owns that a file placed there is whole and durable. Which uploaded files there are, and whose, is in `files`.
"""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import BinaryIO, cast

from cluster.errors import NotFound, Unavailable
from cluster.settings import settings
from cluster.storage import is_there, reaching, storage_uri, sync

STAGING = ".uploads"


def staging_path(suffix: str = "") -> Path:
    """A path that is free, for a file that is being written.

    On the file system of a local storage, so that placing it is a rename; else in this machine's cache.
    """
    folder = (_local_path(storage_uri()) or settings().cache_dir) / STAGING
    with reaching(storage_uri(), "write"):
        folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{uuid.uuid4().hex}{suffix}"


def place(source: Path, uri: str) -> None:
    """Move `source` to `uri`; on return it outlives a power cut, and before it nobody sees a part of it.

    Raises Unavailable when storage cannot be written.
    """
    with reaching(uri, "write") as (filesystem, path):
        target = _local_path(uri)
        if target is None:
            filesystem.put_file(str(source), path)
            source.unlink()
            return
        sync(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        source.replace(target)
        sync(target.parent)


def place_bytes(content: bytes, uri: str) -> None:
    """Make `content` the file at `uri`: a reader sees what was there before, or all of it."""
    path = staged(content)
    try:
        place(path, uri)
    finally:
        path.unlink(missing_ok=True)


def staged(content: bytes) -> Path:
    """`content` as a file at a `staging_path`. Raises Unavailable."""
    path = staging_path()
    try:
        with reaching(storage_uri(), "write"):
            path.write_bytes(content)
    except Unavailable:
        path.unlink(missing_ok=True)
        raise
    return path


def open_blob(uri: str) -> BinaryIO:
    """The bytes at `uri`, from their beginning. Raises NotFound when they are missing."""
    with reaching(uri, "read") as (filesystem, path):
        try:
            return cast(BinaryIO, filesystem.open(path, "rb"))
        except FileNotFoundError as exc:
            raise NotFound(f"{uri} is missing in storage") from exc


def read_blob(uri: str) -> bytes | None:
    """The content of the file at `uri`; None when there is none."""
    with reaching(uri, "read") as (filesystem, path):
        try:
            return cast(bytes, filesystem.cat_file(path))
        except FileNotFoundError:
            return None


def delete_blob(uri: str) -> None:
    """Remove the file at `uri`; removing what is not there is not an error."""
    with reaching(uri, "delete") as (filesystem, path):
        if is_there(filesystem, path):
            filesystem.rm_file(path)


def blobs_below(uri: str) -> list[str]:
    """URIs of all files below `uri`, sorted; none when it is not there."""
    with reaching(uri, "list") as (filesystem, path):
        filesystem.invalidate_cache()
        found = filesystem.find(path) if is_there(filesystem, path) else []
        return sorted(filesystem.unstrip_protocol(name) for name in found)


def modified_at(uri: str) -> float | None:
    """When the file at `uri` was last written, in Unix seconds; None when there is none."""
    with reaching(uri, "read") as (filesystem, path):
        try:
            return float(filesystem.modified(path).timestamp())
        except FileNotFoundError:
            return None


def remove_staged(before: float) -> None:
    """Remove what was last written before this time (Unix seconds): the process that wrote it has died."""
    for path in staging_path().parent.iterdir():
        try:
            if path.stat().st_mtime < before:
                path.unlink()
        except FileNotFoundError:
            continue  # placed, or removed by another process


def _local_path(uri: str) -> Path | None:
    """`uri` as a path of this machine, None when it lies elsewhere."""
    local = uri.removeprefix("file://")
    return None if "://" in local else Path(local).expanduser().resolve()
