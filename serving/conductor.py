"""Background work of the router: duties done again and again, each by one router at a time.

Every router has a conductor. Before each round of a duty it takes the duty's lease; the one that has it does
the round, and when its router dies another has it within `LEASE_S`.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass

from sqlalchemy.exc import SQLAlchemyError

from cluster.errors import HamletError
from cluster.leases import Leases

log = logging.getLogger(__name__)

LEASE_S = 15.0


@dataclass(frozen=True)
class Duty:
    """Work that is done every `every_s` seconds. `work` blocks, and may be cut off at any moment by a crash."""

    name: str
    work: Callable[[], None]
    every_s: float


class Conductor:
    """The duties of one router."""

    def __init__(self, leases: Leases, duties: Sequence[Duty]) -> None:
        self._leases = leases
        self._duties = duties

    @asynccontextmanager
    async def at_work(self) -> AsyncIterator[None]:
        """Duties are done while this is entered. A round that has begun is finished at the end."""
        leaving = asyncio.Event()
        # Their own: Ray Serve gives a replica's event loop few threads, which every request needs.
        threads = ThreadPoolExecutor(len(self._duties), thread_name_prefix="duty")
        loops = [asyncio.create_task(self._repeat(duty, threads, leaving)) for duty in self._duties]
        try:
            yield
        finally:
            leaving.set()
            await asyncio.gather(*loops)
            threads.shutdown(wait=False)

    async def _repeat(self, duty: Duty, threads: Executor, leaving: asyncio.Event) -> None:
        while not leaving.is_set():
            await self._round(duty, threads)
            try:
                async with asyncio.timeout(duty.every_s):
                    await leaving.wait()
            except TimeoutError:
                continue
        await asyncio.to_thread(self._give_back, duty)

    async def _round(self, duty: Duty, threads: Executor) -> None:
        if not await self._held(duty):
            return
        work = asyncio.get_running_loop().run_in_executor(threads, duty.work)
        while not (await asyncio.wait([work], timeout=LEASE_S / 3))[0]:
            await self._held(duty)  # if not, the round is finished beside another's: that does no harm
        try:
            await work
        except HamletError as exc:
            log.warning("%s: %s", duty.name, exc)
        except Exception:
            log.exception("%s failed; it is tried again", duty.name)

    async def _held(self, duty: Duty) -> bool:
        """Take or renew the lease of a duty; whether it is ours."""
        try:
            return await asyncio.to_thread(self._leases.hold, duty.name, LEASE_S)
        except (HamletError, SQLAlchemyError):
            log.exception("the lease of %s could not be written", duty.name)
            return False

    def _give_back(self, duty: Duty) -> None:
        try:
            self._leases.release(duty.name)
        except (HamletError, SQLAlchemyError):
            log.exception("the lease of %s could not be given back; it expires", duty.name)


def owner_name() -> str:
    """A name for this process that no other has had."""
    return f"{socket.gethostname()[:32]}-{os.getpid()}-{secrets.token_hex(4)}"
