"""Tables of batches, and their rows as values. What changes them is in `batches` and `batch_queue`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Self

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    Row,
    String,
    Table,
    Text,
)

from cluster.database import METADATA
from cluster.idempotency import ID_PREFIX


class BatchStatus(StrEnum):
    """OpenAI's states of a batch."""

    VALIDATING = "validating"
    IN_PROGRESS = "in_progress"
    FINALIZING = "finalizing"
    COMPLETED = "completed"
    FAILED = "failed"
    EXPIRED = "expired"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"


ENDED = frozenset({BatchStatus.COMPLETED, BatchStatus.FAILED, BatchStatus.EXPIRED, BatchStatus.CANCELLED})
ACTIVE = frozenset(BatchStatus) - ENDED

BATCHES = Table(
    "batches",
    METADATA,
    Column("id", String(64), primary_key=True),
    Column("tenant", String(64), nullable=False),
    Column("key_id", String(64), nullable=False),
    Column("status", String(16), nullable=False, index=True, default=BatchStatus.VALIDATING),
    Column("created_at", Double, nullable=False),
    Column("expires_at", Double, nullable=False),
    Column("times", JSON, nullable=False, default=dict),
    Column("endpoint", String(64), nullable=False),
    Column("input_file", String(64), nullable=False),
    Column("input_uri", String(2048), nullable=False),
    Column("output_expires_after_s", Integer, nullable=False),
    Column("labels", JSON),
    Column("model", String(255)),
    Column("faults", JSON),
    Column("num_rows", Integer),
    Column("num_completed", Integer, nullable=False, default=0),
    Column("num_failed", Integer, nullable=False, default=0),
    Column("num_prompt_tokens", BigInteger, nullable=False, default=0),
    Column("num_completion_tokens", BigInteger, nullable=False, default=0),
    Column("output_file", String(64)),
    Column("error_file", String(64)),
    Column("lease_owner", String(64)),
    Column("leased_until", Double, nullable=False, default=0.0),
    Column("fingerprint", String(64)),
    Index("ix_batches_listing", "tenant", "created_at", "id"),
    info={ID_PREFIX: "batch_"},
)

# Answers until they stand in a batch's files. The key is why no row can stand there twice.
RESULTS = Table(
    "batch_results",
    METADATA,
    Column("batch_id", String(64), ForeignKey("batches.id", ondelete="CASCADE"), primary_key=True),
    Column("line", Integer, primary_key=True, autoincrement=False),
    Column("is_failed", Boolean, nullable=False),
    Column("result", Text, nullable=False),
)

_UNTOLD = ("lease_owner", "leased_until", "fingerprint")


@dataclass(frozen=True)
class BatchRequest:
    """What a batch is made of. `key_id` is whose rate limits its rows count against."""

    key_id: str
    endpoint: str
    input_file: str
    input_uri: str
    output_expires_after_s: int
    labels: dict[str, str] | None = None


@dataclass(frozen=True, kw_only=True)
class Batch(BatchRequest):
    """One batch as it was when it was read. Times are Unix seconds, `times` those of each status after the first.

    `num_rows` is None until the input is validated. `faults` are of the input: code, message, param, line.
    """

    id: str
    tenant: str
    status: BatchStatus
    created_at: float
    expires_at: float
    times: dict[str, float]
    model: str | None
    faults: list[dict[str, Any]] | None
    num_rows: int | None
    num_completed: int
    num_failed: int
    num_prompt_tokens: int
    num_completion_tokens: int
    output_file: str | None
    error_file: str | None

    @classmethod
    def of_row(cls, row: Row[Any]) -> Self:
        values = {name: value for name, value in row._mapping.items() if name not in _UNTOLD}
        return cls(**values | {"status": BatchStatus(values["status"])})
