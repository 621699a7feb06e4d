"""Everything that a cluster keeps, as one folder: the state database, storage and the collections.

    state/<table>.jsonl     a row a line, as JSON by column
    storage/...             the files of storage as they lie there
    collections/*.parquet   written by `python -m retrieval backup --all`
    manifest.json           last: form, schema revision, storage URI, size and SHA-256 of every file

The folder is a path or an fsspec URI. Rows do not depend on the database they came from, so that a SQLite state goes
back into PostgreSQL. The database is read before storage, and written after it: every row of either side has its files.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from sqlalchemy import Connection, Engine, MetaData, Table, func, insert, inspect, select, text

from cluster.blobs import STAGING
from cluster.child import reason_of, run_module
from cluster.database import VERSION_TABLE, newest_revision, open_database, reading
from cluster.errors import Conflict, DataError, HamletError, NotFound
from cluster.head_record import living_head
from cluster.storage import filesystem_of, is_there, reaching, storage_uri

FORM = "hamlet-backup-1"
MANIFEST = "manifest.json"
STATE, STORAGE, COLLECTIONS = "state", "storage", "collections"
CHUNK_BYTES = 1 << 20
ROWS_AT_ONCE = 500
SPACE_AND_PERMISSIONS = "check its space and permissions"

Told = Callable[[str], None]


class BackedUpFile(BaseModel):
    """One file of a backup."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str = Field(description="Below the backup's folder, with '/'.")
    num_bytes: int
    sha256: str


class Manifest(BaseModel):
    """What a backup holds. A folder without it was never completed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    form: str = FORM
    revision: str = Field(description="Of the database's schema.")
    storage_uri: str = Field(description="Where storage was: rows name their files by it.")
    rows: dict[str, int] = Field(description="Table to how many rows.")
    files: list[BackedUpFile]


def back_up(target: str, tell: Told = lambda _: None) -> Manifest:
    """Write a backup into `target`, which must be empty or not there. The cluster may run meanwhile.

    Raises Conflict when something lies there, Unavailable when something cannot be read or written.
    """
    with reaching(target.rstrip("/"), "write", SPACE_AND_PERMISSIONS) as (filesystem, root):
        if is_there(filesystem, root) and filesystem.find(root):
            raise Conflict(f"{target} is not empty; name a new folder for each backup", "target")
        if f"{root}/".startswith(f"{filesystem_of(storage_uri())[1]}/"):
            raise Conflict(
                f"{target} lies in the storage that is backed up; name a folder elsewhere", "target"
            )
        engine = open_database()
        try:
            files, rows = [], {}
            for table, num_rows, file in _back_up_state(filesystem, root, engine):
                rows[table] = num_rows
                files.append(file)
            tell(f"state: {sum(rows.values()):,} rows of {len(rows)} tables")
            stored = list(_back_up_storage(filesystem, root))
            tell(f"storage: {len(stored):,} files, {_size(stored)}")
            filesystem.makedirs(f"{root}/{COLLECTIONS}", exist_ok=True)
            tell(_retrieval("backup", "--all", f"{target.rstrip('/')}/{COLLECTIONS}"))
            kept = [_measured(filesystem, root, path) for path in _below(filesystem, f"{root}/{COLLECTIONS}")]
            manifest = Manifest(
                revision=newest_revision(),
                storage_uri=storage_uri(),
                rows=rows,
                files=[*files, *stored, *kept],
            )
            filesystem.pipe_file(f"{root}/{MANIFEST}", manifest.model_dump_json(indent=2).encode())
        finally:
            engine.dispose()
    return manifest


def restore(source: str, tell: Told = lambda _: None) -> Manifest:
    """Put a backup back, into the database and storage that are configured now. They must hold nothing.

    Every file is checked before anything is written. The rows come last, in one transaction, so that a restore
    that was cut off is simply started again. Raises NotFound and DataError for what is no whole backup, Conflict
    for a cluster that runs, a database with rows, or a schema of another version.
    """
    with reaching(source.rstrip("/"), "restore", SPACE_AND_PERMISSIONS) as (filesystem, root):
        manifest = _manifest(filesystem, root, source)
        if living_head() is not None:
            raise Conflict("the Ray head runs; end it first: python -m cluster down")
        engine = open_database()
        try:
            _refuse_rows(engine)
            _check(filesystem, root, manifest)
            tell(f"checked: {len(manifest.files):,} files, {_size(manifest.files)}")
            for file in manifest.files:
                if file.path.startswith(f"{STORAGE}/"):
                    _copy(
                        filesystem, f"{root}/{file.path}", storage_uri(file.path.removeprefix(f"{STORAGE}/"))
                    )
            tell(f"storage: {storage_uri()}")
            if any(file.path.startswith(f"{COLLECTIONS}/") for file in manifest.files):
                tell(_retrieval("restore", "--all", f"{source.rstrip('/')}/{COLLECTIONS}"))
            with engine.begin() as connection:
                for table in _reflected(connection).sorted_tables:
                    if table.name in manifest.rows:
                        with filesystem.open(f"{root}/{STATE}/{table.name}.jsonl", "rb") as lines:
                            _insert(connection, table, _moved(lines, manifest.storage_uri))
            tell(f"state: {sum(manifest.rows.values()):,} rows")
        finally:
            engine.dispose()
    return manifest


def _back_up_state(filesystem: Any, root: str, engine: Engine) -> Iterator[tuple[str, int, BackedUpFile]]:
    """Write each table, all of one state of the database; its name, how many rows it has, and its file."""
    with reading(engine) as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"))
        for table in _reflected(connection).sorted_tables:
            num_rows = connection.scalar(select(func.count()).select_from(table))
            # Not all rows at once: the answers of a batch that is worked on may be gigabytes.
            rows = connection.execute(select(table).execution_options(yield_per=ROWS_AT_ONCE)).mappings()
            lines = (f"{json.dumps(dict(row))}\n".encode() for row in rows)
            yield table.name, num_rows or 0, _write(filesystem, root, f"{STATE}/{table.name}.jsonl", lines)


def _reflected(connection: Connection) -> MetaData:
    """The tables as they are, whichever modules are imported."""
    metadata = MetaData()
    metadata.reflect(connection, only=lambda name, _: name != VERSION_TABLE)
    return metadata


def _insert(connection: Connection, table: Table, rows: Iterator[dict[str, Any]]) -> None:
    while some := list(islice(rows, ROWS_AT_ONCE)):
        connection.execute(insert(table), some)
    if connection.dialect.name == "postgresql":
        # Rows that bring their numbers do not move the sequence on.
        for column in table.primary_key:
            quoted = {"table": table.name, "column": column.name}
            sequence = connection.scalar(text("SELECT pg_get_serial_sequence(:table, :column)"), quoted)
            last = connection.scalar(select(func.max(column))) if sequence is not None else None
            if last is not None:
                connection.execute(text("SELECT setval(:name, :last)"), {"name": sequence, "last": last})


def _refuse_rows(engine: Engine) -> None:
    with reading(engine) as connection:
        for name in inspect(connection).get_table_names():
            table = Table(name, MetaData())
            if name != VERSION_TABLE and connection.scalar(select(func.count()).select_from(table)):
                raise Conflict(
                    f"the state database holds {name} already; restore into an empty HAMLET_HOME, or name an empty "
                    "database in HAMLET_DATABASE_URL",
                    "HAMLET_DATABASE_URL",
                )


def _moved(lines: Iterable[bytes], storage_before: str) -> Iterator[dict[str, Any]]:
    """The rows of a table's file, with files named by where storage is now.

    Only where a text begins with the place: "/storage/" may stand in what users wrote, too.
    """
    before, now = (
        f'"{json.dumps(uri.rstrip("/"))[1:-1]}/'.encode() for uri in (storage_before, storage_uri())
    )
    for line in lines:
        yield json.loads(line.replace(before, now))


def _back_up_storage(filesystem: Any, root: str) -> Iterator[BackedUpFile]:
    storage, base = filesystem_of(storage_uri())
    for path in _below(storage, base):
        inner = path.removeprefix(f"{base}/")
        if inner.split("/", 1)[0] == STAGING:
            continue
        try:
            source = storage.open(path, "rb")
        except FileNotFoundError:
            continue  # deleted since it was listed, and meant to be
        with source:
            yield _write(filesystem, root, f"{STORAGE}/{inner}", _chunks(source))


def _chunks(file: Any) -> Iterator[bytes]:
    while chunk := file.read(CHUNK_BYTES):
        yield chunk


def _write(filesystem: Any, root: str, path: str, chunks: Iterable[bytes]) -> BackedUpFile:
    filesystem.makedirs(f"{root}/{path}".rsplit("/", 1)[0], exist_ok=True)
    digest, num_bytes = hashlib.sha256(), 0
    with filesystem.open(f"{root}/{path}", "wb") as file:
        for chunk in chunks:
            digest.update(chunk)
            num_bytes += file.write(chunk)
    return BackedUpFile(path=path, num_bytes=num_bytes, sha256=digest.hexdigest())


def _measured(filesystem: Any, root: str, path: str) -> BackedUpFile:
    digest, num_bytes = hashlib.sha256(), 0
    with filesystem.open(path, "rb") as file:
        for chunk in _chunks(file):
            digest.update(chunk)
            num_bytes += len(chunk)
    return BackedUpFile(path=path.removeprefix(f"{root}/"), num_bytes=num_bytes, sha256=digest.hexdigest())


def _copy(filesystem: Any, path: str, uri: str) -> None:
    target_filesystem, target = filesystem_of(uri)
    target_filesystem.makedirs(target.rsplit("/", 1)[0], exist_ok=True)
    with filesystem.open(path, "rb") as source, target_filesystem.open(target, "wb") as file:
        for chunk in _chunks(source):
            file.write(chunk)


def _manifest(filesystem: Any, root: str, source: str) -> Manifest:
    try:
        manifest = Manifest.model_validate_json(filesystem.cat_file(f"{root}/{MANIFEST}"))
    except (FileNotFoundError, NotADirectoryError) as exc:
        raise NotFound(
            f"{source} holds no {MANIFEST}: it is no backup, or was never completed; name a folder that backup wrote"
        ) from exc
    except ValidationError as exc:
        raise DataError(
            f"{source}/{MANIFEST} cannot be read ({exc.errors()[0]['msg']}); take another backup"
        ) from exc
    if manifest.form != FORM:
        raise DataError(
            f"{source} is of the form {manifest.form!r}, and this version reads {FORM!r}; restore with the version "
            "that made it"
        )
    if manifest.revision != newest_revision():
        raise Conflict(
            f"{source} was made at schema revision {manifest.revision}, and this version works with "
            f"{newest_revision()}; restore with the version that made it, then upgrade"
        )
    return manifest


def _check(filesystem: Any, root: str, manifest: Manifest) -> None:
    for file in manifest.files:
        try:
            found = _measured(filesystem, root, f"{root}/{file.path}")
        except FileNotFoundError as exc:
            raise DataError(f"the backup lacks {file.path}; nothing was restored") from exc
        if found != file:
            raise DataError(f"{file.path} of the backup is not what was written; nothing was restored")


def _retrieval(*arguments: str) -> str:
    """Collections belong to `retrieval`, which stands on this package: its command does them."""
    done = run_module("retrieval", *arguments)
    if done.returncode:
        raise HamletError(f"python -m retrieval {arguments[0]} failed: {reason_of(done)}")
    return done.stdout.strip()


def _below(filesystem: Any, folder: str) -> list[str]:
    return sorted(filesystem.find(folder)) if is_there(filesystem, folder) else []


def _size(files: Sequence[BackedUpFile]) -> str:
    return f"{sum(file.num_bytes for file in files) / 2**20:,.1f} MiB"
