"""Dynamic batches: whatever waits when there is room is computed together.

No timer: a lone request starts at once, and batches grow by themselves while others are computed. Items of
one length go together, so that little is padding, and come back in their own order.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import Context, copy_context
from dataclasses import dataclass
from typing import Generic, TypeVar

from cluster.errors import InvalidInput, Unavailable
from retrieval.padding import padded_batches
from retrieval.vectorizer import renumbered

Item = TypeVar("Item")
Result = TypeVar("Result")

OnBatch = Callable[[int], None]


@dataclass(slots=True)
class _Waiting(Generic[Item, Result]):
    item: Item
    num_tokens: int
    done: asyncio.Future[Result]
    context: Context


class Batcher(Generic[Item, Result]):
    """Computes items of many requests together, `num_at_once` batches at a time.

    `compute` takes the items of one batch and returns a result for each. A batch for which it raises is computed
    again in halves, so that a bad item fails alone; Unavailable is told to all of them. It runs in the context of
    the request that waited longest, whose trace it belongs to. The bounds are those of `retrieval.padding`.
    `on_batch` is told how many items each batch has.
    """

    def __init__(
        self,
        compute: Callable[[Sequence[Item]], Awaitable[Sequence[Result]]],
        max_batch_tokens: int,
        pass_tokens: int,
        num_at_once: int = 1,
        on_batch: OnBatch | None = None,
    ) -> None:
        self._compute = compute
        self._max_batch_tokens, self._pass_tokens = max_batch_tokens, pass_tokens
        self._num_at_once = num_at_once
        self._on_batch = on_batch
        self._waiting: list[_Waiting[Item, Result]] = []
        self._num_computed = 0
        self._running: set[asyncio.Task[None]] = set()  # so that none is collected as garbage

    async def submit(self, items: Sequence[Item], lengths: Sequence[int]) -> list[Result]:
        """The results of `items`, whose `lengths` are in tokens.

        Raises what `compute` raises for the first of them that fails; an InvalidInput names it by its place here.
        """
        loop, context = asyncio.get_running_loop(), copy_context()
        entries = [
            _Waiting[Item, Result](item, length, loop.create_future(), context)
            for item, length in zip(items, lengths, strict=True)
        ]
        self._waiting += entries
        self._start()
        # All of them, so that no future's exception is left unread when the first one raises.
        results = await asyncio.gather(*(entry.done for entry in entries), return_exceptions=True)
        for index, result in enumerate(results):
            if isinstance(result, InvalidInput):
                raise renumbered(result, [index]) from result
            if isinstance(result, BaseException):
                raise result
        return [entry.done.result() for entry in entries]

    def _start(self) -> None:
        while self._num_computed < self._num_at_once and (taken := self._take()):
            self._num_computed += 1
            if self._on_batch is not None:
                self._on_batch(len(taken))
            task = asyncio.get_running_loop().create_task(self._run(taken), context=taken[0].context)
            self._running.add(task)
            task.add_done_callback(self._running.discard)

    def _take(self) -> list[_Waiting[Item, Result]]:
        """The batch of whoever waits longest. What is left is planned anew with what arrives meanwhile."""
        waiting = [entry for entry in self._waiting if not entry.done.done()]
        lengths = [entry.num_tokens for entry in waiting]
        batches = padded_batches(lengths, self._max_batch_tokens, self._pass_tokens)
        oldest = next((batch for batch in batches if 0 in batch), [])
        leaving = set(oldest)
        self._waiting = [entry for index, entry in enumerate(waiting) if index not in leaving]
        return [waiting[index] for index in oldest]

    async def _run(self, entries: Sequence[_Waiting[Item, Result]]) -> None:
        try:
            results = await self._results([entry.item for entry in entries])
        except asyncio.CancelledError:
            for entry in entries:
                entry.done.cancel()
            raise
        finally:
            # Before anybody is told: the next batch is computed while these answers are sent.
            self._num_computed -= 1
            self._start()
        for entry, result in zip(entries, results, strict=True):
            if entry.done.done():
                continue  # its caller has left
            if isinstance(result, Exception):
                entry.done.set_exception(result)
            else:
                entry.done.set_result(result)

    async def _results(self, items: Sequence[Item]) -> list[Result | Exception]:
        try:
            return list(await self._compute(items))
        except Exception as exc:  # noqa: BLE001 - the boundary of the background task; told to each request
            if len(items) == 1 or isinstance(exc, Unavailable):
                return [exc] * len(items)
        middle = len(items) // 2
        return [*await self._results(items[:middle]), *await self._results(items[middle:])]


def on_a_thread(
    compute: Callable[[Sequence[Item]], Sequence[Result]],
) -> Callable[[Sequence[Item]], Awaitable[Sequence[Result]]]:
    """`compute`, which takes the processor, on one thread of its own."""
    thread = ThreadPoolExecutor(1, thread_name_prefix="batcher")

    async def computed(items: Sequence[Item]) -> Sequence[Result]:
        return await asyncio.get_running_loop().run_in_executor(thread, compute, items)

    return computed
