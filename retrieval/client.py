"""The verbs of `service.Collections` from any process, in a blocking and an awaitable form.

What they mean, and what they raise, is said there. A transport carries a verb to where the collections are
open: `owner.py` has the transports.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Protocol, Self, cast

from retrieval.config import DEFAULT_TENANT
from retrieval.documents import MetadataValue
from retrieval.points import DocumentRecord, Hit
from retrieval.search import SearchRequest, SearchResult
from retrieval.store import CollectionInfo, CollectionSpec, Point, Scored


class Transport(Protocol):
    """How a verb reaches the collections."""

    def call(self, verb: str, *args: Any) -> Any: ...

    async def call_async(self, verb: str, *args: Any) -> Any: ...

    def close(self) -> None: ...


class CollectionsClient:
    """Blocking: for command lines, jobs and tests."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def ensure(self, spec: CollectionSpec) -> CollectionInfo:
        return cast(CollectionInfo, self._transport.call("ensure", spec))

    def list_collections(self) -> list[CollectionInfo]:
        return cast(list[CollectionInfo], self._transport.call("list_collections"))

    def describe(self, collection: str) -> CollectionInfo:
        return cast(CollectionInfo, self._transport.call("describe", collection))

    def drop(self, collection: str) -> None:
        self._transport.call("drop", collection)

    def upsert(self, collection: str, points: Sequence[Point]) -> None:
        self._transport.call("upsert", collection, points)

    def delete_documents(
        self, collection: str, document_ids: Sequence[str], tenant: str = DEFAULT_TENANT
    ) -> int:
        return cast(int, self._transport.call("delete_documents", collection, document_ids, tenant))

    def delete_chunks_from(
        self, collection: str, document_id: str, position: int, tenant: str = DEFAULT_TENANT
    ) -> int:
        return cast(
            int, self._transport.call("delete_chunks_from", collection, document_id, position, tenant)
        )

    def documents(self, collection: str, tenant: str = DEFAULT_TENANT) -> list[DocumentRecord]:
        return cast(list[DocumentRecord], self._transport.call("documents", collection, tenant))

    def document(
        self, collection: str, document_id: str, tenant: str = DEFAULT_TENANT
    ) -> DocumentRecord | None:
        return cast(DocumentRecord | None, self._transport.call("document", collection, document_id, tenant))

    def chunks(self, collection: str, document_id: str, tenant: str = DEFAULT_TENANT) -> list[Hit]:
        return cast(list[Hit], self._transport.call("chunks", collection, document_id, tenant))

    def set_metadata(
        self,
        collection: str,
        document_id: str,
        metadata: Mapping[str, MetadataValue],
        tenant: str = DEFAULT_TENANT,
    ) -> int:
        return cast(int, self._transport.call("set_metadata", collection, document_id, metadata, tenant))

    def count(self, collection: str, tenant: str = DEFAULT_TENANT) -> int:
        return cast(int, self._transport.call("count", collection, tenant))

    def optimize(self, collection: str) -> None:
        self._transport.call("optimize", collection)

    def search(self, collection: str, request: SearchRequest, tenant: str = DEFAULT_TENANT) -> SearchResult:
        return cast(SearchResult, self._transport.call("search", collection, request, tenant))

    def page(self, collection: str, limit: int, after: str | None = None) -> list[Scored]:
        return cast(list[Scored], self._transport.call("page", collection, limit, after))

    def swap(self, collection: str, replacement: str) -> None:
        self._transport.call("swap", collection, replacement)

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
    """Awaitable: for Serve deployments, whose event loop must not wait."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def ensure(self, spec: CollectionSpec) -> CollectionInfo:
        return cast(CollectionInfo, await self._transport.call_async("ensure", spec))

    async def list_collections(self) -> list[CollectionInfo]:
        return cast(list[CollectionInfo], await self._transport.call_async("list_collections"))

    async def describe(self, collection: str) -> CollectionInfo:
        return cast(CollectionInfo, await self._transport.call_async("describe", collection))

    async def drop(self, collection: str) -> None:
        await self._transport.call_async("drop", collection)

    async def upsert(self, collection: str, points: Sequence[Point]) -> None:
        await self._transport.call_async("upsert", collection, points)

    async def delete_documents(
        self, collection: str, document_ids: Sequence[str], tenant: str = DEFAULT_TENANT
    ) -> int:
        call = self._transport.call_async("delete_documents", collection, document_ids, tenant)
        return cast(int, await call)

    async def delete_chunks_from(
        self, collection: str, document_id: str, position: int, tenant: str = DEFAULT_TENANT
    ) -> int:
        call = self._transport.call_async("delete_chunks_from", collection, document_id, position, tenant)
        return cast(int, await call)

    async def documents(self, collection: str, tenant: str = DEFAULT_TENANT) -> list[DocumentRecord]:
        return cast(list[DocumentRecord], await self._transport.call_async("documents", collection, tenant))

    async def chunks(self, collection: str, document_id: str, tenant: str = DEFAULT_TENANT) -> list[Hit]:
        return cast(list[Hit], await self._transport.call_async("chunks", collection, document_id, tenant))

    async def set_metadata(
        self,
        collection: str,
        document_id: str,
        metadata: Mapping[str, MetadataValue],
        tenant: str = DEFAULT_TENANT,
    ) -> int:
        call = self._transport.call_async("set_metadata", collection, document_id, metadata, tenant)
        return cast(int, await call)

    async def count(self, collection: str, tenant: str = DEFAULT_TENANT) -> int:
        return cast(int, await self._transport.call_async("count", collection, tenant))

    async def count_documents(self, collection: str, tenant: str = DEFAULT_TENANT) -> int:
        return cast(int, await self._transport.call_async("count_documents", collection, tenant))

    async def optimize(self, collection: str) -> None:
        await self._transport.call_async("optimize", collection)

    async def search(
        self, collection: str, request: SearchRequest, tenant: str = DEFAULT_TENANT
    ) -> SearchResult:
        return cast(SearchResult, await self._transport.call_async("search", collection, request, tenant))

    def close(self) -> None:
        self._transport.close()
