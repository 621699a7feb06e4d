"""Tables of vector stores, and their rows as values. `vector_stores`, its files and its queue change them.

A file in a store is searchable as chunks in a collection, which retrieval owns. Its row says what shall be
there: `version` rises when that changes, `is_removing` hides the row until its chunks are gone, `needs_purge`
says that chunks may be there that must not stay.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    String,
    Table,
    Text,
)

from cluster.database import METADATA
from cluster.idempotency import ID_PREFIX

STORES = Table(
    "vector_stores",
    METADATA,
    Column("id", String(64), primary_key=True),
    Column("tenant", String(64), nullable=False),
    Column("name", String(256), nullable=False),
    Column("description", Text, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("last_active_at", Double, nullable=False),
    Column("expires_after_days", Integer),
    Column("labels", JSON, nullable=False),
    Column("deleted_at", Double),
    Column("fingerprint", String(64)),
    Index("ix_vector_stores_listing", "tenant", "created_at", "id"),
    info={ID_PREFIX: "vs_"},
)

STORE_FILES = Table(
    "vector_store_files",
    METADATA,
    Column("store_id", String(64), ForeignKey("vector_stores.id", ondelete="CASCADE"), primary_key=True),
    Column("id", String(64), primary_key=True),
    Column("tenant", String(64), nullable=False),
    Column("batch_id", String(64), index=True),
    Column("created_at", Double, nullable=False),
    Column("filename", String(512), nullable=False),
    Column("status", String(16), nullable=False),
    Column("error", JSON),
    Column("usage_bytes", BigInteger, nullable=False),
    Column("attributes", JSON, nullable=False),
    Column("chunking", JSON, nullable=False),
    Column("version", Integer, nullable=False),
    Column("is_removing", Boolean, nullable=False),
    Column("needs_purge", Boolean, nullable=False),
    Column("lease_owner", String(64)),
    Column("leased_until", Double, nullable=False),
    Column("num_attempts", Integer, nullable=False),
    Index("ix_vector_store_files_work", "status", "leased_until"),
    Index("ix_vector_store_files_listing", "store_id", "created_at", "id"),
)

FILE_BATCHES = Table(
    "vector_store_batches",
    METADATA,
    Column("id", String(64), primary_key=True),
    Column("store_id", String(64), ForeignKey("vector_stores.id", ondelete="CASCADE"), nullable=False),
    Column("tenant", String(64), nullable=False),
    Column("created_at", Double, nullable=False),
    Column("cancelled_at", Double),
    Column("fingerprint", String(64)),
    info={ID_PREFIX: "vsfb_"},
)

DAY_S = 86_400.0


class FileStatus(StrEnum):
    """How far a file is in a store."""

    IN_PROGRESS = "in_progress"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


class FileCounts(NamedTuple):
    """Files of a store or batch by status."""

    in_progress: int = 0
    completed: int = 0
    failed: int = 0
    cancelled: int = 0

    @property
    def total(self) -> int:
        return sum(self)


@dataclass(frozen=True)
class Chunking:
    """How a file is cut, in the embedder's tokens."""

    chunk_tokens: int
    overlap_tokens: int


def expiry(last_active_at: float, after_days: int | None) -> float | None:
    """When a store expires that was last used then, in Unix seconds; None for never."""
    return None if after_days is None else last_active_at + after_days * DAY_S


@dataclass(frozen=True)
class VectorStore:
    """One store. Times are Unix seconds; `labels` are the caller's metadata; `usage_bytes` of its chunks."""

    id: str
    tenant: str
    name: str
    description: str
    created_at: float
    last_active_at: float
    expires_after_days: int | None
    labels: Mapping[str, str]
    file_counts: FileCounts
    usage_bytes: int

    @property
    def expires_at(self) -> float | None:
        return expiry(self.last_active_at, self.expires_after_days)

    def is_expired(self, now: float) -> bool:
        return self.expires_at is not None and now >= self.expires_at


@dataclass(frozen=True)
class StoreFile:
    """One file in a store; `error` is (code, message) of one that failed, `chunking` None where it is not known."""

    id: str
    store_id: str
    tenant: str
    created_at: float
    filename: str
    status: FileStatus
    error: tuple[str, str] | None
    usage_bytes: int
    attributes: Mapping[str, Any]
    chunking: Chunking | None
    version: int
    batch_id: str | None = None

    @classmethod
    def of_row(cls, row: Any) -> StoreFile:
        return cls(
            id=row.id,
            store_id=row.store_id,
            tenant=row.tenant,
            created_at=row.created_at,
            filename=row.filename,
            status=FileStatus(row.status),
            error=tuple(row.error) if row.error else None,
            usage_bytes=row.usage_bytes,
            attributes=row.attributes,
            chunking=Chunking(**row.chunking),
            version=row.version,
            batch_id=row.batch_id,
        )


@dataclass(frozen=True)
class FileBatch:
    """Files that were attached together."""

    id: str
    store_id: str
    created_at: float
    is_cancelled: bool
    file_counts: FileCounts


@dataclass(frozen=True)
class NewFile:
    """A file to attach."""

    id: str
    filename: str
    chunking: Chunking
    attributes: Mapping[str, Any]
