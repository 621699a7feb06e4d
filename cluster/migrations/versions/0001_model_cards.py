"""Model cards and their aliases."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "model_cards",
        sa.Column("id", sa.String(255), primary_key=True),
        sa.Column("kind", sa.String(32), nullable=False, index=True),
        sa.Column("created_at", sa.String(40), nullable=False, index=True),
        sa.Column("body", sa.Text, nullable=False),
    )
    op.create_table(
        "model_aliases",
        sa.Column("alias", sa.String(255), primary_key=True),
        sa.Column(
            "card_id", sa.String(255), sa.ForeignKey("model_cards.id", ondelete="CASCADE"), nullable=False
        ),
    )
