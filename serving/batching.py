"""Token-bounded dynamic batches: whatever waits when the model is free is computed together.

No timer: a lone request starts at once, and batches grow by themselves while the model is busy. Items of
one length go together, so that little is padding, and come back in their own order.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

from retrieval.padding import padded_batches

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(slots=True)
class _Waiting(Generic[Item, Result]):
    item: Item
    num_tokens: int
    done: asyncio.Future[Result]


class Batcher(Generic[Item, Result]):
    """Computes items of many requests together, on one thread of its own.

    `compute` takes the items of one batch and returns a result for each. Where it raises for a batch,
    each item is computed by itself, so that a bad one fails alone. The bounds are those of `retrieval.padding`.
    """

    def __init__(
        self,
        compute: Callable[[Sequence[Item]], Sequence[Result]],
        max_batch_tokens: int,
        pass_tokens: int,
    ) -> None:
        self._compute = compute
        self._max_batch_tokens, self._pass_tokens = max_batch_tokens, pass_tokens
        self._waiting: list[_Waiting[Item, Result]] = []
        self._running: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="batcher")

    async def submit(self, items: Sequence[Item], lengths: Sequence[int]) -> list[Result]:
        """The results of `items`, whose `lengths` are in tokens.

        Raises what `compute` raises for the first of them that fails.
        """
        loop = asyncio.get_running_loop()
        entries = [
            _Waiting[Item, Result](item, length, loop.create_future())
            for item, length in zip(items, lengths, strict=True)
        ]
        self._waiting += entries
        if self._running is None:
            self._running = loop.create_task(self._run())
        # All of them, so that no future's exception is left unread when the first one raises.
        results = await asyncio.gather(*(entry.done for entry in entries), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result
        return [entry.done.result() for entry in entries]

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _run(self) -> None:
        try:
            while self._waiting:
                # One batch at a time: what arrives meanwhile is planned together with what is left.
                waiting = [entry for entry in self._waiting if not entry.done.done()]
                lengths = [entry.num_tokens for entry in waiting]
                batches = padded_batches(lengths, self._max_batch_tokens, self._pass_tokens)
                oldest = next((batch for batch in batches if 0 in batch), [])
                taken, leaving = [waiting[index] for index in oldest], set(oldest)
                self._waiting = [entry for index, entry in enumerate(waiting) if index not in leaving]
                if taken:
                    await self._run_batch(taken)
        finally:
            self._running = None

    async def _run_batch(self, entries: Sequence[_Waiting[Item, Result]]) -> None:
        loop = asyncio.get_running_loop()
        try:
            items = [entry.item for entry in entries]
            results = await loop.run_in_executor(self._thread, self._compute, items)
        except Exception as exc:  # noqa: BLE001 - the boundary of the background task; told to each request
            if len(entries) > 1:
                for entry in entries:
                    await self._run_batch([entry])
            elif not entries[0].done.done():
                entries[0].done.set_exception(exc)
            return
        for entry, result in zip(entries, results, strict=True):
            if not entry.done.done():
                entry.done.set_result(result)
