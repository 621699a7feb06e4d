"""An index for the files of a vector store in the order in which they are listed."""

from __future__ import annotations

from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    op.create_index("ix_vector_store_files_listing", "vector_store_files", ["store_id", "created_at", "id"])
