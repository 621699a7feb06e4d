"""Folders of weights and data in storage: a local folder or any fsspec URI.

Owns: where artefacts lie and that a half-written one is never seen. Does not own what is in them.
A folder counts as present only once its marker file is there, and the marker is written last, because
object stores have no rename: a reader that finds the marker finds the whole folder.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import fsspec

from cluster.errors import InvalidInput, NotFound, Unavailable
from cluster.settings import settings

MARKER = ".complete"

# Packages whose errors drivers let through as they are. Those are no OSErrors: s3fs raises botocore's when
# the endpoint does not answer, or there are no credentials.
DRIVER_CLIENTS = ("aiohttp", "azure", "botocore", "gcsfs", "google", "urllib3")

# The remedy for a path or URI that a user gave, and that is not storage's own.
GIVEN_ADDRESS = "check its address and permissions"


def storage_uri(*parts: str) -> str:
    """The URI of an object in the configured storage: `storage_uri("models", id)`."""
    return "/".join([settings().storage_uri.rstrip("/"), *parts])


def upload_folder(folder: Path, uri: str) -> str:
    """Copy `folder` to `uri`, marker last; returns `uri`. An earlier folder there is replaced.

    On return it outlives a power cut, as does the card that will name it.
    """
    with reaching(uri, "write") as (filesystem, path):
        _remove(filesystem, path)
        filesystem.makedirs(path, exist_ok=True)
        for file in sorted(p for p in folder.rglob("*") if p.is_file() and p.name != MARKER):
            target = f"{path}/{file.relative_to(folder).as_posix()}"
            filesystem.makedirs(target.rsplit("/", 1)[0], exist_ok=True)
            filesystem.put_file(str(file), target)
        if is_local := "file" in _protocols(filesystem):
            for written in Path(path).rglob("*"):
                sync(written)
        filesystem.pipe_file(f"{path}/{MARKER}", b"")
        if is_local:
            for written in (Path(path, MARKER), Path(path), Path(path).parent):
                sync(written)
    return uri


def local_folder(uri: str) -> Path:
    """The folder at `uri` on this machine: itself when local, else a copy in the cache.

    Raises NotFound when it is missing or was never completed.
    """
    with reaching(uri, "read") as (filesystem, path):
        if not is_there(filesystem, f"{path}/{MARKER}"):
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
    Raises NotFound when nothing is there, and what `expanded` raises.
    """
    if "://" not in location:
        return expanded(location)
    with reaching(location, "read", GIVEN_ADDRESS) as (filesystem, path):
        if "file" in _protocols(filesystem):
            return Path(path)
        files = sorted(filesystem.find(path)) if is_there(filesystem, path) else []
        state = repr([filesystem.info(file) for file in files])
        if not files:
            raise NotFound(f"nothing lies at {location}; give a file or folder that exists", "data.path")
        key = hashlib.sha256(f"{location}{state}".encode()).hexdigest()[:16]
        name = path.rstrip("/").rsplit("/", 1)[-1]  # its suffix tells its form
        target = settings().cache_dir / "data" / key / name
        if not target.exists():
            _fetch(filesystem, path, target)
        return target


def expanded(path: str | Path) -> Path:
    """A user's path with `~` written out. Raises InvalidInput for the home of a user that is none."""
    try:
        return Path(path).expanduser()
    except RuntimeError as exc:
        raise InvalidInput(f"{path}: there is no such user; write the path out") from exc


def folder_exists(uri: str) -> bool:
    """Whether a complete folder lies at `uri`."""
    with reaching(uri, "read") as (filesystem, path):
        return is_there(filesystem, f"{path}/{MARKER}")


def delete_folder(uri: str) -> None:
    """Remove the folder at `uri`; removing what is not there is not an error."""
    with reaching(uri, "delete") as (filesystem, path):
        _remove(filesystem, path)


def folder_names(uri: str) -> list[str]:
    """Names of the folders directly below `uri`, sorted; none when it is not there."""
    with reaching(uri, "list") as (filesystem, path):
        filesystem.invalidate_cache()
        try:
            entries = filesystem.ls(path, detail=True)
        except FileNotFoundError:
            return []
    return sorted(
        entry["name"].rstrip("/").rsplit("/", 1)[-1] for entry in entries if entry["type"] == "directory"
    )


def keep_last_used(folder: Path, num_kept: int) -> None:
    """Of a cache's entries keep so many, the last used ones by their time of change."""
    with suppress(FileNotFoundError):  # another process may do the same
        for unused in sorted(folder.glob("[!.]*"), key=lambda path: -path.stat().st_mtime)[num_kept:]:
            shutil.rmtree(unused, ignore_errors=True)


@contextmanager
def appearing_whole(target: Path) -> Iterator[Path]:
    """A free path to build a folder or file of a cache at; when the block ends it becomes `target`, by one rename.

    Processes that start at once may all build it: the first one's stays, and theirs is the same. Raises
    Unavailable where there can be no cache.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise Unavailable(
            f"cannot write to {target.parent} ({exc.strerror}); set HAMLET_HOME to a folder of yours"
        ) from exc
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".build-") as scratch:
        draft = Path(scratch) / target.name
        yield draft
        try:
            draft.rename(target)
        except OSError:
            if not target.exists():
                raise


def sync(path: Path) -> None:
    """Wait until a file, or what a folder lists, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _fetch(filesystem: fsspec.AbstractFileSystem, path: str, target: Path) -> None:
    with appearing_whole(target) as copy:
        filesystem.get(path, str(copy), recursive=True)


def _remove(filesystem: fsspec.AbstractFileSystem, path: str) -> None:
    # The marker first, so that a folder that is half deleted does not count as present either.
    if is_there(filesystem, f"{path}/{MARKER}"):
        filesystem.rm_file(f"{path}/{MARKER}")
    if is_there(filesystem, path):
        filesystem.rm(path, recursive=True)


@contextmanager
def reaching(
    uri: str, doing: str, remedy: str = "check HAMLET_STORAGE and its permissions"
) -> Iterator[tuple[fsspec.AbstractFileSystem, str]]:
    """As `filesystem_of`, for a block that works there; `doing` says in the message what it does: "read".

    Raises Unavailable for whatever the store or its driver raises in the block, FileNotFoundError included: a
    block for which "missing" means something catches it inside.
    """
    try:
        yield filesystem_of(uri)
    except Exception as exc:
        # Drivers raise ValueError for a bucket's name that cannot be.
        if isinstance(exc, OSError | ValueError) or type(exc).__module__.split(".")[0] in DRIVER_CLIENTS:
            raise Unavailable(f"cannot {doing} {uri} ({str(exc) or type(exc).__name__}); {remedy}") from exc
        raise


def is_there(filesystem: fsspec.AbstractFileSystem, path: str) -> bool:
    """Whether a file or folder lies at `path`. Raises what the driver raises when the store does not answer."""
    # Not `filesystem.exists`: for many drivers it is False then, too.
    try:
        filesystem.info(path)
    except FileNotFoundError:
        return False
    return True


def filesystem_of(uri: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """The file system of a path or fsspec URI, and the path in it. Raises Unavailable without its driver."""
    try:
        return fsspec.core.url_to_fs(uri)  # type: ignore[no-any-return]
    except (ImportError, ValueError) as exc:
        raise Unavailable(f"cannot open {uri}: {exc}; install the fsspec driver of that store") from exc


def _protocols(filesystem: fsspec.AbstractFileSystem) -> tuple[str, ...]:
    protocol = filesystem.protocol
    return (protocol,) if isinstance(protocol, str) else tuple(protocol)
