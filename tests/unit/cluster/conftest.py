"""What the tests of the state database share."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from played_clock import Clock
from sqlalchemy import event
from sqlalchemy.engine import Engine

STEPS_AT_ONCE = 100


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def num_steps() -> Callable[[Engine, Callable[[], object]], int]:
    """Counts the steps of SQLite's virtual machine that some work takes, which no clock and no other load changes."""

    def count(engine: Engine, work: Callable[[], object]) -> int:
        ticks = 0

        def tick() -> None:
            nonlocal ticks
            ticks += 1

        with engine.connect() as connection:  # the only one of the pool, which `work` has next
            driver = connection.connection.driver_connection
        assert driver is not None
        driver.set_progress_handler(tick, STEPS_AT_ONCE)
        try:
            work()
        finally:
            driver.set_progress_handler(None, 0)
        return ticks * STEPS_AT_ONCE

    return count


@pytest.fixture
def right_after() -> Callable[[Engine, Callable[[], object]], None]:
    """Lets the work of another process come between an engine's next transaction and what follows it there."""

    def come(engine: Engine, work: Callable[[], object]) -> None:
        event.listen(engine, "checkin", lambda *_: work(), once=True)

    return come
