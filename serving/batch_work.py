"""Carries batches from their creation to their end: validates inputs, answers rows, closes files.

Batches come from `batch_queue`, leased. Everything here may be ended at any moment, by a kill as well: the lease
runs out, another router takes the batch, and goes on with the rows that have no answer yet.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Self

from sqlalchemy.engine import Engine
from sqlalchemy.exc import SQLAlchemyError

from cluster.batch_queue import BatchQueue, Task, Work, end_of
from cluster.batch_records import BatchStatus
from cluster.blobs import open_blob
from cluster.errors import HamletError, NotFound
from cluster.files import Files, discard
from serving.api import Front
from serving.authentication import Gate
from serving.batch_answers import BatchAnswers
from serving.batch_input import Row, check, rows
from serving.batch_output import answered_line, batch_files
from serving.config import BatchesConfig
from serving.limits import Allowance

log = logging.getLogger(__name__)

LEASE_S = 15.0
# How soon a cancellation is noticed.
RENEW_EVERY_S = 2.0
# How often to look for work while there is none.
IDLE_S = 0.5
# After something broke: how long until the batch is tried again.
PUT_OFF_S = 5.0
# Batches whose rows take turns; more than have a place at a time, so that a tenant with few rows waits for no other.
MAX_BATCHES_AT_ONCE = 32


class BatchWork:
    """The work of one router on batches. `lease_s` must be several times `renew_every_s`."""

    def __init__(
        self,
        queue: BatchQueue,
        files: Files,
        answers: BatchAnswers,
        config: BatchesConfig,
        lease_s: float = LEASE_S,
        renew_every_s: float = RENEW_EVERY_S,
    ) -> None:
        self._queue = queue
        self._files = files
        self._answers = answers
        self._config = config
        self._lease_s = lease_s
        self._renew_every_s = renew_every_s

    @classmethod
    def of(cls, engine: Engine, front: Front, gate: Gate, config: BatchesConfig) -> Self:
        """On this database, by this front, for those whom this gate lets in."""
        answers = BatchAnswers(front, gate, config.max_rows_at_once)
        return cls(BatchQueue(engine), Files(engine), answers, config)

    @asynccontextmanager
    async def at_work(self) -> AsyncIterator[None]:
        """Batches are worked on while this is entered. What has begun is given back at the end."""
        working = asyncio.create_task(self._run())
        try:
            yield
        finally:
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)

    async def _run(self) -> None:
        answering: set[asyncio.Task[None]] = set()
        async with asyncio.TaskGroup() as group:
            while True:
                work = await self._claimed(may_answer=len(answering) < MAX_BATCHES_AT_ONCE)
                if work is None:
                    await asyncio.sleep(IDLE_S)
                elif work.task is Task.ANSWER:
                    task = group.create_task(self._step(work))
                    answering.add(task)
                    task.add_done_callback(answering.discard)
                else:
                    await self._step(work)

    async def _claimed(self, may_answer: bool) -> Work | None:
        try:
            return await asyncio.to_thread(self._queue.claim, self._lease_s, may_answer)
        except SQLAlchemyError:
            log.exception("batches: the next one could not be taken")
            return None

    async def _step(self, work: Work) -> None:
        """Do what a batch was claimed for while it is wanted and ours, and give it back."""
        doing = asyncio.create_task(self._do(work))
        put_off_s = 0.0
        try:
            while not (await asyncio.wait([doing], timeout=self._renew_every_s))[0]:
                if not await asyncio.to_thread(self._queue.renew, work, self._lease_s):
                    break  # it was cancelled, its time is over, or another has it
            else:
                doing.result()
        except HamletError as exc:
            log.warning("%s: %s: %s; it is tried again", work.batch.id, work.task, exc)
            put_off_s = PUT_OFF_S
        except Exception:
            log.exception("%s: %s failed; it is tried again", work.batch.id, work.task)
            put_off_s = PUT_OFF_S
        finally:
            doing.cancel()
            await asyncio.gather(doing, return_exceptions=True)
            await self._give_back(work, put_off_s)

    async def _give_back(self, work: Work, for_s: float) -> None:
        try:
            await asyncio.to_thread(self._queue.release, work, for_s)
        except SQLAlchemyError:
            log.exception("the lease of %s could not be given back; it expires", work.batch.id)

    async def _do(self, work: Work) -> None:
        try:
            if work.task is Task.VALIDATE:
                await asyncio.to_thread(self._validate, work)
            elif work.task is Task.ANSWER:
                await self._answer(work)
            else:
                await asyncio.to_thread(self._close, work, end_of(work.batch.status))
        except NotFound:
            message = f"the input file {work.batch.input_file} was deleted before the batch was done"
            fault = {"code": "file_not_found", "message": message, "param": "input_file_id", "line": None}
            await asyncio.to_thread(self._close, work, BatchStatus.FAILED, [fault])

    def _validate(self, work: Work) -> None:
        with open_blob(work.batch.input_uri) as stream:
            checked = check(stream, work.batch.endpoint, self._config.max_rows)
        if checked.faults:
            self._queue.end(work, BatchStatus.FAILED, faults=checked.faults)
        else:
            self._queue.begin(work, checked.num_rows, checked.model)

    async def _answer(self, work: Work) -> None:
        answered = await asyncio.to_thread(self._queue.answered, work.batch.id)
        ahead = asyncio.Semaphore(self._config.max_rows_at_once)
        with await asyncio.to_thread(open_blob, work.batch.input_uri) as stream:
            wanted = (row for row in rows(stream) if row.line not in answered)
            async with asyncio.TaskGroup() as group:
                # Not many at once: each may take megabytes.
                while (row := await asyncio.to_thread(next, wanted, None)) is not None:
                    await ahead.acquire()
                    allowance = await self._answers.admitted(work.batch)
                    task = group.create_task(self._answer_row(work, row, allowance))
                    task.add_done_callback(lambda _: ahead.release())
        await asyncio.to_thread(self._queue.finalize, work)

    async def _answer_row(self, work: Work, row: Row, allowance: Allowance) -> None:
        answer = await self._answers.answer(work.batch, row, allowance)
        line = answered_line(row, answer.status, answer.request_id, answer.body)
        await asyncio.to_thread(self._queue.record, work, row.line, line, answer.status != 200, answer.tokens)

    def _close(self, work: Work, end: BatchStatus, faults: list[dict[str, Any]] | None = None) -> None:
        kept = batch_files(work.batch, end, self._queue, self._files)
        if not self._queue.end(work, end, *kept, faults=faults):
            for file in kept:
                if file is not None:
                    discard(file)
