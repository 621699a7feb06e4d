"""Serve deployment handles as the parts the HTTP front calls, and Ray's errors as ours.

The only place where a fault of a replica or of Ray becomes an answer to a caller.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from contextvars import Context, copy_context
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from ray.exceptions import RayError, RayTaskError, TaskCancelledError, UnserializableException
from ray.serve.exceptions import (
    BackPressureError,
    DeploymentUnavailableError,
    RayServeException,
    RequestCancelledError,
)
from ray.serve.handle import DeploymentHandle
from tokenizers import Tokenizer

from cluster.cards import ModelCard
from cluster.errors import HamletError, InvalidInput, Unavailable
from retrieval.vectorizer import EmbedderInfo, renumbered
from serving import tracing
from serving.backends import Backends, Classified, Embedded, SearchJob
from serving.batching import Batcher
from serving.channel import Event, Inbox, received
from serving.config import DeploymentConfig, ServingConfig
from serving.engine import Delta
from serving.generator import Completion, GenerationJob, Progress, PromptReport, Spend, completed
from serving.prompts import Passage

Item = TypeVar("Item")
Result = TypeVar("Result")

# A text's vector, number of tokens, and the embedder's fingerprint.
Row = tuple[NDArray[np.float32], int, str]

RESTART_S = 5.0
# Where no replica is kept (min_replicas: 0), a request starts one and waits for it to load.
START_S = 120.0
# Of ingestion: a call may wait behind others, and nobody waits for it.
INGESTION_TIMEOUT_S = 60.0
TEXTS_PER_CALL = 32
# Of one request: the next texts are with the part when it is done with these.
CALLS_AT_ONCE = 2
# The first request for a classifier loads it, perhaps from remote storage.
CLASSIFIER_LOAD_S = 60.0


def translate(error: BaseException, part: str) -> BaseException:
    """What a caller is told of an error that a handle raised. Pure.

    An error of ours crosses as it is; a full queue, a deployment that is not there and whatever befalls Ray itself
    (a replica, its node or its memory is lost) become Unavailable. Anything else is a fault of the code and stays
    what it is.
    """
    # What a replica raised may itself be a loss or a full queue: of a part which it had called.
    fault = error.cause if isinstance(error, RayTaskError) else error
    if isinstance(fault, HamletError):
        return fault
    if isinstance(fault, BackPressureError):
        return Unavailable(
            f"the {part} has too many requests waiting; try again shortly", code="overloaded", retry_after_s=1
        )
    if _is_loss(fault) or isinstance(fault, DeploymentUnavailableError):
        return Unavailable(
            f"the {part} was lost while it answered; it is being restarted", retry_after_s=RESTART_S
        )
    return error


def _is_loss(fault: BaseException | None) -> bool:
    """Whether Ray lost something. Not so where it carries an error of the code, or the caller has left.

    A bare RayError stands for an error of the code that could not be sent.
    """
    of_code = (RayTaskError, UnserializableException, TaskCancelledError)
    return isinstance(fault, RayError) and type(fault) is not RayError and not isinstance(fault, of_code)


@asynccontextmanager
async def _translated(part: str) -> AsyncIterator[None]:
    try:
        yield
    except (RayError, RayServeException, HamletError) as exc:
        if isinstance(exc, RequestCancelledError):
            raise
        told = translate(exc, part)
        if told is exc:
            raise
        raise told from exc


def _is_cancelled() -> bool:
    """Whether the current task was cancelled, and not only what it waits for."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


async def _few_at_a_time(
    call: Callable[[Sequence[Item]], Coroutine[Any, Any, Result]], items: Sequence[Item]
) -> list[Result]:
    """The results of `call` for a few of `items` after the other, in their order.

    So the limit of a call does not bound how many items a request may have, and other requests get their turn
    in between. Raises what the first call that fails raises; an item is named by its place in `items`.
    """
    results: list[Result] = []
    running: deque[asyncio.Task[Result]] = deque()

    async def take_oldest() -> None:
        start = len(results) * TEXTS_PER_CALL
        try:
            results.append(await running.popleft())
        except InvalidInput as exc:
            raise renumbered(exc, range(start, len(items))) from exc

    try:
        for start in range(0, len(items), TEXTS_PER_CALL):
            if len(running) == CALLS_AT_ONCE:
                await take_oldest()
            running.append(asyncio.create_task(call(items[start : start + TEXTS_PER_CALL])))
        while running:
            await take_oldest()
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
    return results


class _Part:
    """Calls to one deployment. `timeout_s` bounds each of them: they are short once a replica has taken them.

    Without it a request for a deployment whose only replica has died would wait until it is back.
    """

    def __init__(
        self, handle: DeploymentHandle, name: str, timeout_s: float, config: DeploymentConfig
    ) -> None:
        self._handle = handle
        self._name = name
        self._starts_on_demand = config.min_replicas == 0
        self._timeout_s = max(timeout_s, START_S) if self._starts_on_demand else timeout_s

    async def _call(self, method: str, *args: Any, context: Context | None = None) -> Any:
        """The result of a call that is short once it runs; made in `context`, by default the caller's."""
        context = copy_context() if context is None else context
        async with _translated(self._name), self._limit():
            response = context.run(getattr(self._handle, method).remote, *args, **tracing.carried())
            try:
                return await response
            except asyncio.CancelledError as exc:
                response.cancel()  # the caller has left or the time is over: end the work in the replica too
                if _is_cancelled():
                    raise
                raise Unavailable(f"the {self._name} gave the call up; try again", retry_after_s=1) from exc

    @asynccontextmanager
    async def _limit(self) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(self._timeout_s):
                yield
        except TimeoutError as exc:
            raise Unavailable(
                f"no {self._name} took the request within {self._timeout_s:g} s; it is down, starting or busy",
                retry_after_s=RESTART_S,
            ) from exc

    async def check_health(self) -> None:
        """Where no replica is kept this asks nobody: each probe would start one, and none would ever idle."""
        if not self._starts_on_demand:
            await self._call("ping")


class GeneratorHandle(_Part):
    """`serving.generator.Generator` behind a handle; its events come through an `Inbox`."""

    def __init__(
        self, handle: DeploymentHandle, name: str, timeout_s: float, config: DeploymentConfig, host: str
    ) -> None:
        super().__init__(handle, name, timeout_s, config)
        self._inbox = Inbox(host)

    async def complete(self, job: GenerationJob, spend: Spend) -> Completion:
        return await completed(self._events("run", job), spend)

    async def stream(self, job: GenerationJob) -> AsyncGenerator[PromptReport | list[Delta]]:
        async with aclosing(self._events("stream", job)) as events:
            async for event in events:
                assert not isinstance(event, (Progress, Completion))
                yield event

    async def _events(self, method: str, job: GenerationJob) -> AsyncGenerator[Event]:
        """What a method sends; its first event, the report, tells that a replica has taken the job."""
        async with _translated(self._name), self._inbox.open() as (reply_to, queue):
            response = getattr(self._handle, method).remote(job, reply_to, **tracing.carried())
            call: asyncio.Future[int] = asyncio.ensure_future(response)
            try:
                async with aclosing(received(call, queue)) as events:
                    async with self._limit():
                        report = await anext(events)
                    yield report
                    async for event in events:
                        yield event
            finally:
                if not call.done():
                    # The reader has left, or no replica took the job: end the work in the replica too.
                    response.cancel()
                    call.cancel()


class ClassifierHandle(_Part):
    """`serving.classifier.Classifier` behind a handle."""

    async def classify(self, card: ModelCard, inputs: Sequence[tuple[str, ...]]) -> list[Classified]:
        calls = await _few_at_a_time(lambda few: self._classify(card, few), inputs)
        return [verdict for verdicts in calls for verdict in verdicts]

    async def _classify(self, card: ModelCard, inputs: Sequence[tuple[str, ...]]) -> list[Classified]:
        verdicts: list[Classified] = await self._call("classify", card, inputs)
        return verdicts


class EmbedderHandle(_Part):
    """`serving.embedder.Embedder` behind a handle.

    Small requests that come while calls are out go together in the next call: a call costs as much as a text.
    """

    def __init__(
        self, handle: DeploymentHandle, name: str, timeout_s: float, config: DeploymentConfig
    ) -> None:
        super().__init__(handle, name, timeout_s, config)
        bounds = TEXTS_PER_CALL, 0, CALLS_AT_ONCE * config.max_replicas
        self._queries = Batcher[str, Row](lambda texts: self._rows(texts, True), *bounds)
        self._documents = Batcher[str, Row](lambda texts: self._rows(texts, False), *bounds)

    async def embed(self, texts: Sequence[str], is_query: bool = False) -> Embedded:
        calls = await _few_at_a_time(lambda few: self._embed(few, is_query), texts)
        return Embedded(
            np.concatenate([call.vectors for call in calls]),
            tuple(count for call in calls for count in call.token_counts),
            calls[0].fingerprint,
        )

    async def _embed(self, texts: Sequence[str], is_query: bool) -> Embedded:
        if len(texts) > TEXTS_PER_CALL // 2:
            embedded: Embedded = await self._call("embed", texts, is_query)
            return embedded
        batcher = self._queries if is_query else self._documents
        async with self._limit():
            rows = await batcher.submit(texts, [1] * len(texts))
        vectors, counts, fingerprints = zip(*rows, strict=True)
        return Embedded(np.stack(vectors), counts, fingerprints[0])

    async def _rows(self, texts: Sequence[str], is_query: bool) -> list[Row]:
        # In the context of one request Serve would take the call for a part of it, and end it when its client leaves.
        embedded: Embedded = await self._call("embed", texts, is_query, context=Context())
        return [
            (vector, count, embedded.fingerprint)
            for vector, count in zip(embedded.vectors, embedded.token_counts, strict=True)
        ]

    async def describe(self) -> EmbedderInfo:
        info: EmbedderInfo = await self._call("describe")
        return info


class EmbedderCalls:
    """The embedder behind a handle, for a thread that waits: what ingestion needs (`TextEmbedder`).

    Raises Unavailable while the embedder does not answer.
    """

    def __init__(self, handle: DeploymentHandle) -> None:
        self._handle = handle
        info: EmbedderInfo = self._call("describe")
        self.name = info.name
        self.fingerprint = info.fingerprint
        self.dimension = info.dimension
        self.max_tokens = info.max_tokens
        self.special_tokens = info.special_tokens
        self.tokenizer = Tokenizer.from_str(info.tokenizer_json)

    def embed_queries(self, texts: Sequence[str], truncate: bool = False) -> NDArray[np.float32]:
        raise NotImplementedError("ingestion embeds documents alone")

    def embed_documents(self, texts: Sequence[str], truncate: bool = False) -> NDArray[np.float32]:
        """[n, dimension] float32. In calls of few texts, between which the questions of searches get their turn."""
        rows = []
        for start in range(0, len(texts), TEXTS_PER_CALL):
            try:
                embedded: Embedded = self._call("embed", texts[start : start + TEXTS_PER_CALL])
            except InvalidInput as exc:
                raise renumbered(exc, range(start, len(texts))) from exc
            rows.append(embedded.vectors)
        return np.concatenate(rows)

    def _call(self, method: str, *args: Any) -> Any:
        response = getattr(self._handle, method).remote(*args)
        try:
            return response.result(timeout_s=INGESTION_TIMEOUT_S)
        except (RayError, RayServeException) as exc:
            raise translate(exc, "embedder") from exc
        except TimeoutError as exc:
            response.cancel()
            raise Unavailable(f"the embedder did not answer within {INGESTION_TIMEOUT_S:g} s") from exc


class RetrieverHandle(_Part):
    """`serving.retriever.Retriever` behind a handle."""

    async def search(self, job: SearchJob) -> list[Passage]:
        passages: list[Passage] = await self._call("search", job)
        return passages


def backends(
    config: ServingConfig,
    generators: Mapping[str, DeploymentHandle],
    classifier: DeploymentHandle,
    embedder: DeploymentHandle,
    retriever: DeploymentHandle,
    host: str,
) -> Backends:
    """The parts of an application by their handles; generators reach this process under `host`."""
    timeout_s = config.router.part_timeout_s
    classifier_timeout_s = max(timeout_s, CLASSIFIER_LOAD_S)
    return Backends(
        {
            name: GeneratorHandle(handle, name, timeout_s, config.generators[name], host)
            for name, handle in generators.items()
        },
        ClassifierHandle(classifier, "classifier", classifier_timeout_s, config.classifier),
        EmbedderHandle(embedder, "embedder", timeout_s, config.embedder),
        RetrieverHandle(retriever, "retriever", timeout_s, config.retriever),
    )
