"""How many requests may be in progress at once, and for how long each. More are refused rather than kept waiting."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TypeVar

from starlette.requests import Request

from cluster.errors import Overloaded, Unavailable
from serving.sse import unless_gone

Result = TypeVar("Result")


class Deadline:
    """The moment at which one request is given up, `limit_s` seconds from now, whatever it is waiting for then."""

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._ends_at = time.monotonic() + limit_s

    @asynccontextmanager
    async def kept(self) -> AsyncIterator[None]:
        """Raises Unavailable when the time is over before this is left."""
        try:
            async with asyncio.timeout(self._ends_at - time.monotonic()):
                yield
        except TimeoutError as exc:
            raise Unavailable(
                f"the answer did not end within {self._limit_s:g} s; ask for fewer tokens or try again later",
                code="timeout",
            ) from exc

    async def bound(self, work: Awaitable[Result], request: Request) -> Result:
        """The result of `work`, given up when the client leaves, which raises ClientGone, or the time is over."""
        async with self.kept():
            return await unless_gone(work, request.receive)


class Admission:
    """Counts what is in progress in one process; belongs to one event loop."""

    def __init__(self, limit: int, request_timeout_s: float) -> None:
        self._limit = limit
        self._request_timeout_s = request_timeout_s
        self.num_in_progress = 0

    @property
    def is_half_full(self) -> bool:
        """Whether what nobody waits for should leave the other half to those who wait."""
        return 2 * self.num_in_progress >= self._limit

    @contextmanager
    def place(self) -> Iterator[Deadline]:
        """A place while this is entered, with its request's deadline. Raises Overloaded when all are taken."""
        if self.num_in_progress >= self._limit:
            raise Overloaded(
                f"{self._limit} requests are in progress, as many as this server takes; try again shortly",
                retry_after_s=1.0,
            )
        self.num_in_progress += 1
        try:
            yield Deadline(self._request_timeout_s)
        finally:
            self.num_in_progress -= 1
