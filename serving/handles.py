"""Serve deployment handles as the parts the HTTP front calls, and Ray's errors as ours.

The only place where a fault of a replica or of Ray becomes an answer to a caller.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Any

from ray.exceptions import RayActorError, RayError, RayTaskError
from ray.serve.exceptions import (
    BackPressureError,
    DeploymentUnavailableError,
    RayServeException,
    RequestCancelledError,
)
from ray.serve.handle import DeploymentHandle

from cluster.cards import ModelCard
from cluster.errors import HamletError, Unavailable
from serving.backends import Backends, Classified, Embedded, SearchJob
from serving.engine import Delta
from serving.generator import Completion, GenerationJob, PromptReport
from serving.prompts import Passage

RESTART_S = 5.0
# The first request for a classifier loads it, perhaps from remote storage.
CLASSIFIER_LOAD_S = 60.0


def translate(error: BaseException, part: str) -> BaseException:
    """What a caller is told of an error that a handle raised. Pure.

    An error of ours crosses as it is; the death of a replica, a full queue or a deployment that is not
    there become Unavailable. Anything else is a fault of the code and stays what it is.
    """
    cause = getattr(error, "cause", None) if isinstance(error, RayTaskError) else None
    if isinstance(cause, HamletError):
        return cause
    if isinstance(error, BackPressureError) or isinstance(cause, BackPressureError):
        return Unavailable(f"the {part} has too many requests waiting; try again shortly", retry_after_s=1)
    if isinstance(error, (RayActorError, DeploymentUnavailableError)):
        return Unavailable(
            f"the {part} was lost while it answered; it is being restarted", retry_after_s=RESTART_S
        )
    return error


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


class _Part:
    """Calls to one deployment. `timeout_s` bounds the wait for a replica that takes the request.

    Without it a request for a deployment whose only replica has died would wait until it is back.
    """

    def __init__(self, handle: DeploymentHandle, name: str, timeout_s: float) -> None:
        self._handle = handle
        self._name = name
        self._timeout_s = timeout_s

    async def _call(self, method: str, *args: Any) -> Any:
        """The result of a call that is short once it runs."""
        async with _translated(self._name):
            response = getattr(self._handle, method).remote(*args)
            try:
                async with self._limit():
                    return await response
            except asyncio.CancelledError:
                response.cancel()  # the caller has left: end the work in the replica too
                raise

    @asynccontextmanager
    async def _limit(self) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(self._timeout_s):
                yield
        except TimeoutError as exc:
            raise Unavailable(
                f"no {self._name} took the request within {self._timeout_s:g} s; it is down or busy",
                retry_after_s=RESTART_S,
            ) from exc

    async def check_health(self) -> None:
        await self._call("ping")


class GeneratorHandle(_Part):
    """`serving.generator.Generator` behind a handle."""

    def __init__(self, handle: DeploymentHandle, name: str, timeout_s: float) -> None:
        super().__init__(handle, name, timeout_s)
        self._streaming = handle.options(stream=True)

    async def complete(self, job: GenerationJob) -> Completion:
        *_, completion = [event async for event in self._events("run", job)]
        assert isinstance(completion, Completion)
        return completion

    async def stream(self, job: GenerationJob) -> AsyncGenerator[PromptReport | list[Delta]]:
        async with aclosing(self._events("stream", job)) as events:
            async for event in events:
                yield event

    async def _events(self, method: str, job: GenerationJob) -> AsyncGenerator[Any]:
        """What a method yields; its first item, the report, tells that a replica has taken the job."""
        async with _translated(self._name):
            response = getattr(self._streaming, method).remote(job)
            try:
                async with self._limit():
                    report = await anext(response)
                yield report
                async for item in response:
                    yield item
            except (asyncio.CancelledError, GeneratorExit, Unavailable):
                response.cancel()
                raise


class ClassifierHandle(_Part):
    """`serving.classifier.Classifier` behind a handle."""

    async def classify(self, card: ModelCard, inputs: Sequence[tuple[str, ...]]) -> list[Classified]:
        verdicts: list[Classified] = await self._call("classify", card, inputs)
        return verdicts


class EmbedderHandle(_Part):
    """`serving.embedder.Embedder` behind a handle."""

    async def embed(self, texts: Sequence[str], is_query: bool = False) -> Embedded:
        embedded: Embedded = await self._call("embed", texts, is_query)
        return embedded


class RetrieverHandle(_Part):
    """`serving.retriever.Retriever` behind a handle."""

    async def search(self, job: SearchJob) -> list[Passage]:
        passages: list[Passage] = await self._call("search", job)
        return passages


def backends(
    generator: DeploymentHandle,
    classifier: DeploymentHandle,
    embedder: DeploymentHandle,
    retriever: DeploymentHandle,
    timeout_s: float,
) -> Backends:
    """The parts of an application by their handles."""
    return Backends(
        GeneratorHandle(generator, "generator", timeout_s),
        ClassifierHandle(classifier, "classifier", max(timeout_s, CLASSIFIER_LOAD_S)),
        EmbedderHandle(embedder, "embedder", timeout_s),
        RetrieverHandle(retriever, "retriever", timeout_s),
    )
