"""The verbs of `service.Collections` from any process, in a blocking and an awaitable form.

What they take, mean and raise is said there. A transport carries a verb to where the collections are
open: `owner.py` has the transports.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from functools import wraps
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Protocol, Self, TypeVar, cast

from retrieval.service import Collections

P = ParamSpec("P")
R = TypeVar("R")


class Transport(Protocol):
    """How a verb reaches the collections."""

    def call(self, verb: str, *args: Any, **kwargs: Any) -> Any: ...

    async def call_async(self, verb: str, *args: Any, **kwargs: Any) -> Any: ...

    def close(self) -> None: ...


def _blocking(
    verb: Callable[Concatenate[Collections, P], R],
) -> Callable[Concatenate[CollectionsClient, P], R]:
    @wraps(verb)
    def call(self: CollectionsClient, /, *args: P.args, **kwargs: P.kwargs) -> R:
        return cast(R, self._transport.call(verb.__name__, *args, **kwargs))

    return call


def _awaitable(
    verb: Callable[Concatenate[Collections, P], R],
) -> Callable[Concatenate[AsyncCollections, P], Coroutine[Any, Any, R]]:
    @wraps(verb)
    async def call(self: AsyncCollections, /, *args: P.args, **kwargs: P.kwargs) -> R:
        return cast(R, await self._transport.call_async(verb.__name__, *args, **kwargs))

    return call


class CollectionsClient:
    """Blocking: for command lines, jobs and tests."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    ensure = _blocking(Collections.ensure)
    collection_names = _blocking(Collections.collection_names)
    list_collections = _blocking(Collections.list_collections)
    describe = _blocking(Collections.describe)
    drop = _blocking(Collections.drop)
    upsert = _blocking(Collections.upsert)
    delete_documents = _blocking(Collections.delete_documents)
    delete_chunks_from = _blocking(Collections.delete_chunks_from)
    mark_unfinished = _blocking(Collections.mark_unfinished)
    documents = _blocking(Collections.documents)
    document_ids = _blocking(Collections.document_ids)
    document = _blocking(Collections.document)
    chunks = _blocking(Collections.chunks)
    set_metadata = _blocking(Collections.set_metadata)
    count = _blocking(Collections.count)
    optimize = _blocking(Collections.optimize)
    search = _blocking(Collections.search)
    page = _blocking(Collections.page)
    swap = _blocking(Collections.swap)

    def close(self) -> None:
        """Let go of what this process holds; the cluster's owner stays."""
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class AsyncCollections:
    """Awaitable: for Serve deployments, whose event loop must not wait. Has the verbs that they use."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    collection_names = _awaitable(Collections.collection_names)
    describe = _awaitable(Collections.describe)
    delete_documents = _awaitable(Collections.delete_documents)
    documents = _awaitable(Collections.documents)
    chunks = _awaitable(Collections.chunks)
    set_metadata = _awaitable(Collections.set_metadata)
    count = _awaitable(Collections.count)
    count_documents = _awaitable(Collections.count_documents)
    search = _awaitable(Collections.search)
