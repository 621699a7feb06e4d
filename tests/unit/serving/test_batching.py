from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from contextvars import ContextVar

import pytest

from cluster.errors import InvalidInput, Unavailable
from serving.batching import Batcher, on_a_thread


def test_results_come_back_in_the_order_of_the_items() -> None:
    async def main() -> list[str]:
        batcher = Batcher[str, str](
            on_a_thread(lambda items: [item.upper() for item in items]), 10, pass_tokens=64
        )
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
        batcher = Batcher[int, int](on_a_thread(compute), 100, pass_tokens=64)
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
        batcher = Batcher[int, int](on_a_thread(compute), 100, pass_tokens=64)
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
        batcher = Batcher[int, int](on_a_thread(compute), 100, pass_tokens=64)
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


def test_as_many_batches_are_computed_at_a_time_as_there_is_room_for() -> None:
    batches: list[list[int]] = []
    sizes: list[int] = []
    release = asyncio.Event()

    async def compute(items: Sequence[int]) -> list[int]:
        batches.append(list(items))
        await release.wait()
        return list(items)

    async def main() -> None:
        batcher = Batcher[int, int](compute, 100, 64, num_at_once=2, on_batch=sizes.append)
        requests = [asyncio.create_task(batcher.submit([number], [1])) for number in range(5)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert batches == [[0], [1]]
        release.set()
        await asyncio.gather(*requests)

    asyncio.run(main())
    assert batches == [[0], [1], [2, 3, 4]]
    assert sizes == [1, 1, 3]


def test_an_input_at_fault_is_named_by_its_place_in_its_own_request() -> None:
    calls: list[list[str]] = []

    async def compute(items: Sequence[str]) -> list[str]:
        calls.append(list(items))
        for index, item in enumerate(items):
            if not item:
                raise InvalidInput(f"input[{index}] is empty", f"input[{index}]")
        return list(items)

    async def main() -> None:
        batcher = Batcher[str, str](compute, 100, pass_tokens=64)
        good, bad = await asyncio.gather(
            batcher.submit(["a"] * 5, [1] * 5),
            batcher.submit(["b", "b", ""], [1] * 3),
            return_exceptions=True,
        )
        assert good == ["a"] * 5
        assert isinstance(bad, InvalidInput)
        assert (bad.message, bad.param) == ("input[2] is empty", "input[2]")

    asyncio.run(main())
    assert max(len(call) for call in calls) > 2


def test_what_is_down_is_down_for_all_of_a_batch_and_asked_once() -> None:
    calls: list[int] = []

    async def compute(items: Sequence[int]) -> list[int]:
        calls.append(len(items))
        raise Unavailable("the embedder is down")

    async def main() -> list[object]:
        batcher = Batcher[int, int](compute, 100, pass_tokens=64)
        return await asyncio.gather(
            *(batcher.submit([number], [1]) for number in range(5)), return_exceptions=True
        )

    assert [type(result) for result in asyncio.run(main())] == [Unavailable] * 5
    assert calls == [1, 4]


def test_a_batch_belongs_to_the_trace_of_the_request_that_waited_longest() -> None:
    trace = ContextVar[str]("trace")
    traces: list[str] = []

    async def compute(items: Sequence[int]) -> list[int]:
        traces.append(trace.get())
        await asyncio.sleep(0)
        return list(items)

    async def main() -> None:
        batcher = Batcher[int, int](compute, 100, pass_tokens=64)

        async def ask(name: str) -> None:
            trace.set(name)
            await batcher.submit([1], [1])

        await asyncio.gather(*(ask(name) for name in ("first", "second", "third")))

    asyncio.run(main())
    assert traces == ["first", "second"]
