"""Where rows stood that are gone, for listings that go on behind them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.create_table(
        "gone_rows",
        sa.Column("owner", sa.String(64), nullable=False),
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("gone_at", sa.Double, nullable=False, index=True),
    )
    op.create_index("ix_gone_rows_place", "gone_rows", ["owner", "id"])
