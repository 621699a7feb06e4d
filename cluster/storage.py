"""Folders of weights and data in storage: a local folder or any fsspec URI.

Owns: where artefacts lie and that a half-written one is never seen. Does not own what is in them.
A folder counts as present only once its marker file is there, and the marker is written last, because
object stores have no rename: a reader that finds the marker finds the whole folder.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import fsspec

from cluster.errors import NotFound, Unavailable
from cluster.settings import settings

MARKER = ".complete"


def storage_uri(*parts: str) -> str:
    """The URI of an object in the configured storage: `storage_uri("models", id)`."""
    return "/".join([settings().storage_uri.rstrip("/"), *parts])


def upload_folder(folder: Path, uri: str) -> str:
    """Copy `folder` to `uri`, marker last; returns `uri`. An earlier folder there is replaced."""
    filesystem, path = filesystem_of(uri)
    try:
        _remove(filesystem, path)
        filesystem.makedirs(path, exist_ok=True)
        for file in sorted(p for p in folder.rglob("*") if p.is_file() and p.name != MARKER):
            target = f"{path}/{file.relative_to(folder).as_posix()}"
            filesystem.makedirs(target.rsplit("/", 1)[0], exist_ok=True)
            filesystem.put_file(str(file), target)
        filesystem.pipe_file(f"{path}/{MARKER}", b"")
    except OSError as exc:
        raise Unavailable(f"cannot write {uri} ({exc}); check HAMLET_STORAGE and its permissions") from exc
    return uri


def local_folder(uri: str) -> Path:
    """The folder at `uri` on this machine: itself when local, else a copy in the cache.

    Raises NotFound when it is missing or was never completed.
    """
    filesystem, path = filesystem_of(uri)
    if not filesystem.exists(f"{path}/{MARKER}"):
        raise NotFound(f"{uri} is missing or was never completely written; export or upload it again")
    if "file" in _protocols(filesystem):
        return Path(path)
    target = settings().cache_dir / "storage" / hashlib.sha256(uri.encode()).hexdigest()[:16]
    if not target.exists():
        _fetch(filesystem, path, target)
    return target


def local_copy(location: str) -> Path:
    """A user's file or folder, given as a path or an fsspec URI, on this machine.

    What is remote is fetched into the cache, anew when its names, sizes, times or tags have changed.
    Raises NotFound when nothing is there.
    """
    if "://" not in location:
        return Path(location).expanduser()
    filesystem, path = filesystem_of(location)
    if "file" in _protocols(filesystem):
        return Path(path)
    try:
        files = sorted(filesystem.find(path)) if filesystem.exists(path) else []
        state = repr([filesystem.info(file) for file in files])
    except OSError as exc:
        raise Unavailable(f"cannot read {location} ({exc}); check its address and permissions") from exc
    if not files:
        raise NotFound(f"nothing lies at {location}; give a file or folder that exists", "data.path")
    folder = settings().cache_dir / "data" / hashlib.sha256(f"{location}{state}".encode()).hexdigest()[:16]
    target = folder / path.rstrip("/").rsplit("/", 1)[-1]  # its suffix tells its form
    if not target.exists():
        _fetch(filesystem, path, target)
    return target


def folder_exists(uri: str) -> bool:
    """Whether a complete folder lies at `uri`."""
    filesystem, path = filesystem_of(uri)
    return bool(filesystem.exists(f"{path}/{MARKER}"))


def delete_folder(uri: str) -> None:
    """Remove the folder at `uri`; removing what is not there is not an error."""
    filesystem, path = filesystem_of(uri)
    try:
        _remove(filesystem, path)
    except OSError as exc:
        raise Unavailable(f"cannot delete {uri} ({exc}); check HAMLET_STORAGE and its permissions") from exc


def folder_names(uri: str) -> list[str]:
    """Names of the folders directly below `uri`, sorted; none when it is not there."""
    filesystem, path = filesystem_of(uri)
    filesystem.invalidate_cache()
    try:
        entries = filesystem.ls(path, detail=True)
    except FileNotFoundError:
        return []
    except OSError as exc:
        raise Unavailable(f"cannot list {uri} ({exc}); check HAMLET_STORAGE and its permissions") from exc
    return sorted(
        entry["name"].rstrip("/").rsplit("/", 1)[-1] for entry in entries if entry["type"] == "directory"
    )


@contextmanager
def appearing_whole(target: Path) -> Iterator[Path]:
    """A free path to build a folder or file of a cache at; when the block ends it becomes `target`, by one rename.

    Processes that start at once may all build it: the first one's stays, and theirs is the same.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".build-") as scratch:
        draft = Path(scratch) / target.name
        yield draft
        try:
            draft.rename(target)
        except OSError:
            if not target.exists():
                raise


def _fetch(filesystem: fsspec.AbstractFileSystem, path: str, target: Path) -> None:
    with appearing_whole(target) as copy:
        try:
            filesystem.get(path, str(copy), recursive=True)
        except OSError as exc:
            raise Unavailable(
                f"cannot read {path} ({exc}); check HAMLET_STORAGE and its permissions"
            ) from exc


def _remove(filesystem: fsspec.AbstractFileSystem, path: str) -> None:
    # The marker first, so that a folder that is half deleted does not count as present either.
    if filesystem.exists(f"{path}/{MARKER}"):
        filesystem.rm_file(f"{path}/{MARKER}")
    if filesystem.exists(path):
        filesystem.rm(path, recursive=True)


def filesystem_of(uri: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """The file system of a path or fsspec URI, and the path in it. Raises Unavailable without its driver."""
    try:
        return fsspec.core.url_to_fs(uri)  # type: ignore[no-any-return]
    except (ImportError, ValueError) as exc:
        raise Unavailable(f"cannot open {uri}: {exc}; install the fsspec driver of that store") from exc


def _protocols(filesystem: fsspec.AbstractFileSystem) -> tuple[str, ...]:
    protocol = filesystem.protocol
    return (protocol,) if isinstance(protocol, str) else tuple(protocol)
