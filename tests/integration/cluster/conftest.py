"""What the tests on a real PostgreSQL share."""

from __future__ import annotations

import pytest
from sqlalchemy.engine import Engine

from cluster.database import open_database
from cluster.settings import Settings


@pytest.fixture
def engine(postgres: str) -> Engine:
    """A migrated, empty database on PostgreSQL."""
    return open_database(Settings(database_url=postgres))
