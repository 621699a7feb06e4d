"""Alembic's entry: run the migrations in the transaction that `cluster.database` has opened."""

from __future__ import annotations

from alembic import context

context.configure(connection=context.config.attributes["connection"], target_metadata=None)
context.run_migrations()
