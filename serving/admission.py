"""How many requests may be in progress at once. More are refused at once rather than kept waiting."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from cluster.errors import Overloaded


class Admission:
    """Counts what is in progress in one process; belongs to one event loop."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.num_in_progress = 0

    @property
    def is_half_full(self) -> bool:
        """Whether what nobody waits for should leave the other half to those who wait."""
        return 2 * self.num_in_progress >= self._limit

    @contextmanager
    def place(self) -> Iterator[None]:
        """A place while this is entered. Raises Overloaded when all are taken."""
        if self.num_in_progress >= self._limit:
            raise Overloaded(
                f"{self._limit} requests are in progress, as many as this server takes; try again shortly",
                retry_after_s=1.0,
            )
        self.num_in_progress += 1
        try:
            yield
        finally:
            self.num_in_progress -= 1
