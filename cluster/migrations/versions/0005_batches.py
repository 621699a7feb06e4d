"""Batches and the answers to their rows; since when and why a fine-tuning job waits."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.create_table(
        "batches",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("key_id", sa.String(64), nullable=False),
        sa.Column("status", sa.String(16), nullable=False, index=True),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("expires_at", sa.Double, nullable=False),
        sa.Column("times", sa.JSON, nullable=False),
        sa.Column("endpoint", sa.String(64), nullable=False),
        sa.Column("input_file", sa.String(64), nullable=False),
        sa.Column("input_uri", sa.String(2048), nullable=False),
        sa.Column("output_expires_after_s", sa.Integer, nullable=False),
        sa.Column("labels", sa.JSON),
        sa.Column("model", sa.String(255)),
        sa.Column("faults", sa.JSON),
        sa.Column("num_rows", sa.Integer),
        sa.Column("num_completed", sa.Integer, nullable=False),
        sa.Column("num_failed", sa.Integer, nullable=False),
        sa.Column("num_prompt_tokens", sa.BigInteger, nullable=False),
        sa.Column("num_completion_tokens", sa.BigInteger, nullable=False),
        sa.Column("output_file", sa.String(64)),
        sa.Column("error_file", sa.String(64)),
        sa.Column("lease_owner", sa.String(64)),
        sa.Column("leased_until", sa.Double, nullable=False),
    )
    op.create_index("ix_batches_listing", "batches", ["tenant", "created_at", "id"])
    op.create_table(
        "batch_results",
        sa.Column("batch_id", sa.String(64), _batch(), primary_key=True),
        sa.Column("line", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("is_failed", sa.Boolean, nullable=False),
        sa.Column("result", sa.Text, nullable=False),
    )
    op.add_column("fine_tuning_jobs", sa.Column("queued_at", sa.Double))
    op.add_column("fine_tuning_jobs", sa.Column("waits_for", sa.Text))


def _batch() -> sa.ForeignKey:
    return sa.ForeignKey("batches.id", ondelete="CASCADE")
