"""Files, fine-tuning jobs with events and checkpoints, leases, webhooks; models and aliases get an owner."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    _models()
    _files()
    _jobs()
    op.create_table(
        "leases",
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("owner", sa.String(64), nullable=False),
        sa.Column("expires_at", sa.Double, nullable=False),
    )
    op.create_table(
        "webhook_outbox",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("type", sa.String(64), nullable=False),
        sa.Column("object_id", sa.String(64), nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("next_try_at", sa.Double, nullable=False, index=True),
        sa.Column("num_tries", sa.Integer, nullable=False),
    )


def _models() -> None:
    op.add_column("model_cards", sa.Column("tenant", sa.String(64), nullable=False, server_default=""))
    # The key becomes (tenant, alias), which SQLite cannot change in place.
    op.rename_table("model_aliases", "model_aliases_before")
    card = sa.ForeignKey("model_cards.id", ondelete="CASCADE")
    previous = sa.ForeignKey("model_cards.id", ondelete="SET NULL")
    # PostgreSQL keeps the name of a renamed table's key, so this one needs another.
    op.create_table(
        "model_aliases",
        sa.Column("tenant", sa.String(64), nullable=False, server_default=""),
        sa.Column("alias", sa.String(255), nullable=False),
        sa.Column("card_id", sa.String(255), card, nullable=False),
        sa.Column("previous_id", sa.String(255), previous),
        sa.PrimaryKeyConstraint("tenant", "alias", name="pk_model_aliases"),
    )
    op.execute("INSERT INTO model_aliases (alias, card_id) SELECT alias, card_id FROM model_aliases_before")
    op.drop_table("model_aliases_before")
    op.create_table(
        "retired_weights",
        sa.Column("uri", sa.String(2048), primary_key=True),
        sa.Column("retired_at", sa.Double, nullable=False),
    )


def _files() -> None:
    op.create_table(
        "files",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("expires_at", sa.Double, index=True),
        sa.Column("filename", sa.String(512), nullable=False),
        sa.Column("purpose", sa.String(32), nullable=False),
        sa.Column("num_bytes", sa.BigInteger, nullable=False),
        sa.Column("uri", sa.String(2048), nullable=False),
        sa.Column("details", sa.JSON, nullable=False),
    )
    op.create_index("ix_files_listing", "files", ["tenant", "created_at", "id"])


def _jobs() -> None:
    op.create_table(
        "fine_tuning_jobs",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("status", sa.String(20), nullable=False, index=True),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("started_at", sa.Double),
        sa.Column("finished_at", sa.Double),
        sa.Column("model", sa.String(255), nullable=False),
        sa.Column("training_file", sa.String(64), nullable=False),
        sa.Column("validation_file", sa.String(64)),
        sa.Column("method", sa.JSON, nullable=False),
        sa.Column("hyperparameters", sa.JSON, nullable=False),
        sa.Column("suffix", sa.String(64)),
        sa.Column("seed", sa.BigInteger, nullable=False),
        sa.Column("labels", sa.JSON),
        sa.Column("config", sa.JSON, nullable=False),
        sa.Column("plan", sa.JSON, nullable=False),
        sa.Column("error", sa.JSON),
        sa.Column("fine_tuned_model", sa.String(255)),
        sa.Column("trained_tokens", sa.BigInteger),
        sa.Column("result_files", sa.JSON, nullable=False),
        sa.Column("step", sa.Integer),
        sa.Column("total_steps", sa.Integer),
        sa.Column("progress_at", sa.Double),
        sa.Column("num_events", sa.Integer, nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("num_losses", sa.Integer, nullable=False),
        sa.Column("process", sa.String(20), nullable=False),
    )
    op.create_index("ix_fine_tuning_jobs_listing", "fine_tuning_jobs", ["tenant", "created_at", "id"])
    op.create_table(
        "fine_tuning_events",
        sa.Column("job_id", sa.String(64), _job(), primary_key=True),
        sa.Column("position", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("level", sa.String(8), nullable=False),
        sa.Column("type", sa.String(8), nullable=False),
        sa.Column("message", sa.Text, nullable=False),
        sa.Column("data", sa.JSON),
    )
    op.create_table(
        "fine_tuning_checkpoints",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("job_id", sa.String(64), _job(), nullable=False),
        sa.Column("step", sa.Integer, nullable=False),
        sa.Column("model_id", sa.String(255), nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("metrics", sa.JSON, nullable=False),
        sa.UniqueConstraint("job_id", "step", name="uq_fine_tuning_checkpoints_step"),
    )


def _job() -> sa.ForeignKey:
    return sa.ForeignKey("fine_tuning_jobs.id", ondelete="CASCADE")
