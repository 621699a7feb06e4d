"""Uploaded files: rows in SQL, bytes in storage at `files/<tenant>/<id>-<random><suffix>`.

Each attempt to keep a file has a path of its own: under an Idempotency-Key several may have the same id.
A file is there once its row is there, and the row is written last: after a crash at any moment a file is
either whole or unknown. A row is removed first, so that a file without bytes is never listed.
"""

from __future__ import annotations

import logging
import re
import secrets
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    Connection,
    Double,
    Index,
    String,
    Table,
    delete,
    func,
    insert,
    select,
)
from sqlalchemy.engine import Engine

from cluster.blobs import blobs_below, delete_blob, modified_at, open_blob, place, staged
from cluster.database import METADATA, open_database, reading, take_turns
from cluster.errors import HamletError, NotFound, Overloaded, Unavailable
from cluster.idempotency import ID_PREFIX, IdempotencyKey, Identity, is_made, made_before
from cluster.paging import Page, keep_places, page_of_rows
from cluster.storage import storage_uri

log = logging.getLogger(__name__)

# How a kept file is named in storage, its id first, the old way too: nothing else is ever taken for an orphan.
BLOB = re.compile(r"/((file-[0-9a-f]{24})(?:-[0-9a-f]{8})?(?:\.[a-z0-9]+)?)$")
IDS_AT_ONCE = 500
# Room is made by deleting and not by waiting; this only keeps clients from hurrying.
QUOTA_RETRY_S = 60.0

FILES = Table(
    "files",
    METADATA,
    Column("id", String(64), primary_key=True),
    Column("tenant", String(64), nullable=False),
    Column("created_at", Double, nullable=False),
    Column("expires_at", Double, index=True),
    Column("filename", String(512), nullable=False),
    Column("purpose", String(32), nullable=False),
    Column("num_bytes", BigInteger, nullable=False),
    Column("uri", String(2048), nullable=False),
    Column("details", JSON, nullable=False),
    Column("fingerprint", String(64)),
    Index("ix_files_listing", "tenant", "created_at", "id"),
    info={ID_PREFIX: "file-"},
)


@dataclass(frozen=True)
class File:
    """One uploaded file. Times are Unix seconds; `details` is what its validation found (rows, statistics).

    `fingerprint` is that of its request, where that had an Idempotency-Key.
    """

    id: str
    tenant: str
    created_at: float
    expires_at: float | None
    filename: str
    purpose: str
    num_bytes: int
    uri: str
    details: dict[str, Any]
    fingerprint: str | None = None


class Files:
    """Files by tenant. Every method is one transaction, safe from several processes."""

    def __init__(self, engine: Engine | None = None, clock: Callable[[], float] = time.time) -> None:
        self._engine = engine or open_database()
        self._clock = clock

    def stored(
        self,
        tenant: str,
        filename: str,
        purpose: str,
        content: Path | bytes,
        *,
        expires_at: float | None = None,
        details: Mapping[str, Any] | None = None,
        key: IdempotencyKey | None = None,
    ) -> File:
        """The bytes are kept, durable on return; the file is unknown until `add`, or `add_file` in a transaction.

        A path, best one of `staging_path`, is moved away from where it is.
        """
        source = content if isinstance(content, Path) else staged(content)
        num_bytes = source.stat().st_size
        identity = Identity.of(FILES, tenant, key)
        name = f"{identity.id}-{secrets.token_hex(4)}{suffix_of(filename)}"
        uri = storage_uri("files", tenant, name)
        place(source, uri)
        return File(
            **vars(identity),
            tenant=tenant,
            created_at=self._clock(),
            expires_at=expires_at,
            filename=filename,
            purpose=purpose,
            num_bytes=num_bytes,
            uri=uri,
            details=dict(details or {}),
        )

    def add(self, file: File, max_bytes: int | None = None) -> File:
        """Make a stored file known; it is returned as it was given, or as the same request made it before.

        Raises Overloaded where the tenant's files would take more than `max_bytes`, and as `is_made`. Bytes that
        are not needed are removed.
        """
        identity = Identity(file.id, file.fingerprint)
        try:
            with self._engine.begin() as connection:
                known = is_made(connection, FILES, file.tenant, identity)
                if not known:
                    if max_bytes is not None:
                        take_turns(connection, f"files of {file.tenant}")
                        _require_room(connection, file.tenant, file.num_bytes, max_bytes)
                    add_file(connection, file)
        except HamletError:
            discard(file)
            raise
        if not known:
            return file
        discard(file)
        return self.get(file.tenant, file.id)

    def made_before(self, tenant: str, key: IdempotencyKey | None) -> File | None:
        """What this request has made, as it is now; None where it comes for the first time. Raises as `is_made`."""
        file_id = made_before(self._engine, FILES, tenant, key)
        return self.get(tenant, file_id) if file_id else None

    def require_room(self, tenant: str, new_bytes: int, max_bytes: int | None) -> None:
        """Raises Overloaded where so many bytes more would be above `max_bytes` now; `add` has the last word."""
        if max_bytes is not None:
            with reading(self._engine) as connection:
                _require_room(connection, tenant, new_bytes, max_bytes)

    def get(self, tenant: str, file_id: str) -> File:
        """Raises NotFound for an id that is unknown, expired, or another tenant's."""
        with reading(self._engine) as connection:
            row = connection.execute(_living(tenant, self._clock()).where(FILES.c.id == file_id)).first()
        if row is None:
            raise _unknown(file_id)
        return File(**row._mapping)

    def some(self, tenant: str, file_ids: Sequence[str]) -> Sequence[File]:
        """These files, in the order given. Raises as `get` for the first that is not there."""
        found: dict[str, File] = {}
        with reading(self._engine) as connection:
            for start in range(0, len(file_ids), IDS_AT_ONCE):
                ids = file_ids[start : start + IDS_AT_ONCE]
                rows = connection.execute(_living(tenant, self._clock()).where(FILES.c.id.in_(ids)))
                found |= {row.id: File(**row._mapping) for row in rows}
        for file_id in file_ids:
            if file_id not in found:
                raise _unknown(file_id)
        return [found[file_id] for file_id in file_ids]

    def is_kept(self, tenant: str, file_id: str) -> bool:
        """Whether the file is still there, expired or not: one that a job uses is kept beyond its time."""
        query = select(FILES.c.id).where(FILES.c.tenant == tenant, FILES.c.id == file_id)
        with reading(self._engine) as connection:
            return connection.execute(query).first() is not None

    def list(
        self,
        tenant: str,
        *,
        purpose: str | None = None,
        after: str | None = None,
        limit: int = 10_000,
        ascending: bool = False,
    ) -> Page[File]:
        """A page of files, newest first unless `ascending`. Raises NotFound for an unknown `after`."""
        query = _living(tenant, self._clock())
        if purpose is not None:
            query = query.where(FILES.c.purpose == purpose)
        with reading(self._engine) as connection:
            rows = page_of_rows(
                connection,
                query,
                FILES,
                limit=limit,
                after=after,
                ascending=ascending,
                cursors=select(FILES).where(FILES.c.tenant == tenant),
                owner=tenant,
            )
        return rows.map(lambda row: File(**row._mapping))

    def delete(self, tenant: str, file_id: str) -> File:
        """Remove a file, row first. Raises NotFound."""
        file = self.get(tenant, file_id)
        with self._engine.begin() as connection:
            if not connection.execute(delete(FILES).where(FILES.c.id == file.id)).rowcount:
                raise _unknown(file_id)
            keep_places(connection, [(tenant, file.id, file.created_at)], self._clock())
        discard(file)
        return file

    def open(self, file: File) -> BinaryIO:
        """Its bytes, from their beginning. Raises NotFound or Unavailable; only the log says where they lie."""
        try:
            return open_blob(file.uri)
        except NotFound as exc:
            log.warning("file %s: %s", file.id, exc)
            raise NotFound(f"the bytes of {file.id} are missing in storage; upload the file again") from exc
        except Unavailable as exc:
            log.warning("file %s: %s", file.id, exc)
            raise Unavailable(f"the bytes of {file.id} are out of reach; try again later") from exc

    def expired(self) -> Sequence[File]:
        """Files whose time is over, of every tenant."""
        with reading(self._engine) as connection:
            rows = connection.execute(select(FILES).where(FILES.c.expires_at <= self._clock())).all()
        return [File(**row._mapping) for row in rows]

    def remove(self, files: Collection[File]) -> None:
        """Remove these files, which may be gone already."""
        for file in files:
            with self._engine.begin() as connection:
                connection.execute(delete(FILES).where(FILES.c.id == file.id))
                keep_places(connection, [(file.tenant, file.id, file.created_at)], self._clock())
            discard(file)

    def remove_orphans(self, before: float) -> Sequence[str]:
        """Remove bytes that no row names and that were last written before this time (Unix seconds); their URIs.

        A process that dies between `stored` and `add` leaves some behind. Younger ones may get their row yet.
        """
        kept = {match[1]: match for uri in blobs_below(storage_uri("files")) if (match := BLOB.search(uri))}
        orphans = []
        names = sorted(kept)
        for start in range(0, len(names), IDS_AT_ONCE):
            some = names[start : start + IDS_AT_ONCE]
            ids = {kept[name][2] for name in some}
            with reading(self._engine) as connection:
                uris = connection.scalars(select(FILES.c.uri).where(FILES.c.id.in_(ids))).all()
            known = {uri.rpartition("/")[2] for uri in uris}
            for uri in (kept[name].string for name in some if name not in known):
                if (written_at := modified_at(uri)) is not None and written_at < before:
                    delete_blob(uri)
                    orphans.append(uri)
        return orphans


def add_file(connection: Connection, file: File) -> None:
    """Make a stored file known, in the caller's transaction."""
    connection.execute(insert(FILES).values(**vars(file)))


def discard(file: File) -> None:
    """Remove the bytes of a file that has no row; where storage is out of reach, `remove_orphans` does it later."""
    try:
        delete_blob(file.uri)
    except Unavailable as exc:
        log.warning("the bytes of %s stay for now: %s", file.id, exc)


def suffix_of(filename: str) -> str:
    """The suffix that tells a file's form, as it is kept in storage too; none when it is out of the ordinary.

    >>> suffix_of("Rows v2.JSONL"), suffix_of("../../etc/passwd"), suffix_of("a.b/c")
    ('.jsonl', '', '')
    """
    suffix = Path(filename).suffix.lower()
    return suffix if re.fullmatch(r"\.[a-z0-9]{1,10}", suffix) else ""


def _require_room(connection: Connection, tenant: str, new_bytes: int, max_bytes: int) -> None:
    total = select(func.sum(FILES.c.num_bytes)).where(FILES.c.tenant == tenant)
    held_bytes = int(connection.scalar(total) or 0)
    if held_bytes + new_bytes > max_bytes:
        raise Overloaded(
            f"the project's files take {held_bytes:,} bytes and may take {max_bytes:,}; delete some first",
            code="insufficient_quota",
            retry_after_s=QUOTA_RETRY_S,
        )


def _living(tenant: str, now: float) -> Any:
    expires = FILES.c.expires_at
    return select(FILES).where(FILES.c.tenant == tenant, expires.is_(None) | (expires > now))


def _unknown(file_id: str) -> NotFound:
    return NotFound(f"no file {file_id!r}; list them with GET /v1/files", "file_id", "file_not_found")
