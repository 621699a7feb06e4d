from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

import pytest

from serving.batching import Batcher


def test_results_come_back_in_the_order_of_the_items() -> None:
    async def main() -> list[str]:
        batcher = Batcher[str, str](lambda items: [item.upper() for item in items], 10, pass_tokens=64)
        return await batcher.submit(["ccc", "a", "bb"], [3, 1, 2])

    assert asyncio.run(main()) == ["CCC", "A", "BB"]


def test_what_waits_while_a_batch_runs_is_computed_together() -> None:
    batches: list[list[int]] = []
    first_runs, release = threading.Event(), threading.Event()

    def compute(items: Sequence[int]) -> list[int]:
        batches.append(list(items))
        first_runs.set()
        release.wait(5)
        return list(items)

    async def main() -> None:
        batcher = Batcher[int, int](compute, 100, pass_tokens=64)
        first = asyncio.create_task(batcher.submit([0], [1]))
        await asyncio.to_thread(first_runs.wait, 5)
        rest = [asyncio.create_task(batcher.submit([number], [1])) for number in range(1, 9)]
        await asyncio.sleep(0)
        release.set()
        await asyncio.gather(first, *rest)

    asyncio.run(main())
    assert [len(batch) for batch in batches] == [1, 8]


def test_a_bad_item_fails_alone_and_no_answers_are_swapped() -> None:
    def compute(items: Sequence[int]) -> list[int]:
        if 3 in items:
            raise ValueError("bad item")
        return [item * 10 for item in items]

    async def main() -> list[object]:
        batcher = Batcher[int, int](compute, 100, pass_tokens=64)
        return await asyncio.gather(
            *(batcher.submit([number], [1]) for number in range(5)), return_exceptions=True
        )

    results = asyncio.run(main())
    assert [results[i] for i in (0, 1, 2, 4)] == [[0], [10], [20], [40]]
    assert isinstance(results[3], ValueError)


def test_a_cancelled_caller_takes_no_place_in_a_batch() -> None:
    computed: list[int] = []
    first_runs, release = threading.Event(), threading.Event()

    def compute(items: Sequence[int]) -> list[int]:
        computed.extend(items)
        first_runs.set()
        release.wait(5)
        return list(items)

    async def main() -> None:
        batcher = Batcher[int, int](compute, 100, pass_tokens=64)
        first = asyncio.create_task(batcher.submit([1], [1]))
        await asyncio.to_thread(first_runs.wait, 5)
        gone = asyncio.create_task(batcher.submit([2], [1]))
        await asyncio.sleep(0)
        gone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gone
        release.set()
        await first
        assert await batcher.submit([3], [1]) == [3]

    asyncio.run(main())
    assert computed == [1, 3]
