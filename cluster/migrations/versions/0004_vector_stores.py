"""Vector stores, their files and file batches."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.create_table(
        "vector_stores",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("name", sa.String(256), nullable=False),
        sa.Column("description", sa.Text, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("last_active_at", sa.Double, nullable=False),
        sa.Column("expires_after_days", sa.Integer),
        sa.Column("labels", sa.JSON, nullable=False),
        sa.Column("deleted_at", sa.Double),
    )
    op.create_index("ix_vector_stores_listing", "vector_stores", ["tenant", "created_at", "id"])
    op.create_table(
        "vector_store_files",
        sa.Column("store_id", sa.String(64), _store(), primary_key=True),
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("batch_id", sa.String(64), index=True),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("filename", sa.String(512), nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("error", sa.JSON),
        sa.Column("usage_bytes", sa.BigInteger, nullable=False),
        sa.Column("attributes", sa.JSON, nullable=False),
        sa.Column("chunking", sa.JSON, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("is_removing", sa.Boolean, nullable=False),
        sa.Column("needs_purge", sa.Boolean, nullable=False),
        sa.Column("lease_owner", sa.String(64)),
        sa.Column("leased_until", sa.Double, nullable=False),
        sa.Column("num_attempts", sa.Integer, nullable=False),
    )
    op.create_index("ix_vector_store_files_work", "vector_store_files", ["status", "leased_until"])
    op.create_table(
        "vector_store_batches",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("store_id", sa.String(64), _store(), nullable=False),
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("cancelled_at", sa.Double),
    )


def _store() -> sa.ForeignKey:
    return sa.ForeignKey("vector_stores.id", ondelete="CASCADE")
