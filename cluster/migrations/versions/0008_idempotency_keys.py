"""Fingerprints of requests that were made under an Idempotency-Key."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"

TABLES = ("files", "fine_tuning_jobs", "batches", "vector_stores", "vector_store_batches")


def upgrade() -> None:
    for table in TABLES:
        op.add_column(table, sa.Column("fingerprint", sa.String(64)))
