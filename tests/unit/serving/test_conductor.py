"""Duties of the router beside its requests."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

from cluster.leases import Leases
from serving.conductor import Conductor, Duty

DEADLINE_S = 10.0


def test_duties_at_work_leave_the_threads_of_the_event_loop_to_requests() -> None:
    together = Barrier(3)  # both duties and the test

    def work() -> None:
        together.wait(DEADLINE_S)

    async def main() -> None:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
        conductor = Conductor(Leases("us"), [Duty("first", work, 60), Duty("second", work, 60)])
        async with conductor.at_work(), asyncio.timeout(DEADLINE_S):
            while together.n_waiting < 2:
                await asyncio.to_thread(lambda: None)
            await asyncio.to_thread(together.wait)

    asyncio.run(main())
