"""Duties of the router beside its requests."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
from sqlalchemy.exc import OperationalError

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


class Interrupted(Leases):
    """Leases in a database that is away when one is renewed for the first time."""

    num_asked = 0

    def hold(self, name: str, for_s: float) -> bool:
        self.num_asked += 1
        if self.num_asked == 2:
            raise OperationalError("UPDATE leases", None, Exception("the database is away"))
        return super().hold(name, for_s)


def test_a_round_goes_on_though_its_lease_cannot_be_renewed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.conductor.LEASE_S", 0.03)
    together, num_begun = Barrier(2), 0

    def work() -> None:
        nonlocal num_begun
        num_begun += 1
        together.wait(DEADLINE_S)

    leases = Interrupted("us")

    async def main() -> None:
        async with Conductor(leases, [Duty("slow", work, 0.01)]).at_work(), asyncio.timeout(DEADLINE_S):
            while together.n_waiting < 1:
                await asyncio.sleep(0.01)
            while leases.num_asked < 4:  # renewed again, or taken for another round beside the first
                await asyncio.sleep(0.01)
            await asyncio.to_thread(together.wait)

    asyncio.run(main())
    assert num_begun == 1
