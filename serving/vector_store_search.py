"""Searches of vector stores: which collections they mean, and hits as chunks of files.

A collection that `python -m retrieval ingest` filled is a store too, `vs_` and its name: to be listed and searched,
and changed by that command alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from cluster.errors import Conflict, NotFound, Unavailable
from cluster.vector_store_records import FileCounts, FileStatus, StoreFile, VectorStore
from cluster.vector_store_rows import unknown_store
from cluster.vector_stores import VectorStores
from retrieval.chunks import indexed_text
from retrieval.client import AsyncCollections
from retrieval.points import DocumentRecord, Hit
from retrieval.search import Mode, SearchRequest, Stages
from serving.backends import Backends
from serving.catalogue import Catalogue, ServedModel
from serving.reranking import find_reranker, relevance
from serving.retriever import ANY_SIMILARITY
from serving.vector_store_index import (
    COLLECTION_PREFIX,
    Keys,
    collection_of,
    file_id_of,
    filename_of,
    store_filter,
    store_id_of,
)

STORE_PREFIX = "vs_"
# How long the owner of the collections may take; then 503, as for a part that is down.
COLLECTIONS_TIMEOUT_S = 10.0
# Hits that a reranker chooses from.
RERANK_CANDIDATES = 50


@dataclass(frozen=True, slots=True)
class Target:
    """Where to search: a collection, and the filter that narrows it to what was asked for."""

    collection: str
    filter: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class Query:
    """One search: its texts, of which a chunk has to answer one, and how the hits are chosen."""

    texts: tuple[str, ...]
    max_num_results: int
    filter: Mapping[str, Any] | None = None
    score_threshold: float = 0.0
    mode: Mode = Mode.HYBRID
    reranker: str | None = None


@dataclass(frozen=True, slots=True)
class FoundChunk:
    """A hit with the file it is of; `attributes` are the file's."""

    hit: Hit
    file_id: str
    filename: str
    attributes: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Found:
    """Chunks, best first, and the milliseconds of each stage."""

    chunks: list[FoundChunk]
    stage_ms: dict[str, float]


class VectorStoreSearch:
    """Searches in one application. `open_collections` is called when they are first needed."""

    def __init__(
        self,
        stores: VectorStores,
        backends: Backends,
        catalogue: Catalogue,
        open_collections: Callable[[], AsyncCollections],
    ) -> None:
        self.stores = stores
        self._backends = backends
        self._catalogue = catalogue
        self._open = open_collections
        self._collections: AsyncCollections | None = None

    @property
    def collections(self) -> AsyncCollections:
        if self._collections is None:
            self._collections = self._open()
        return self._collections

    async def search(self, tenant: str, store_id: str, query: Query) -> Found:
        """The chunks of a store that answer a query best.

        Raises NotFound, Conflict for an expired store, InvalidInput for a bad filter, Unavailable.
        """
        (target,) = await self.targets(tenant, [store_id], query.filter)
        reranker = None
        if query.reranker is not None:
            reranker = await find_reranker(self._catalogue.of(tenant), query.reranker, "hamlet.rerank")
        stages = Stages()
        with stages.timed("embed"):
            embedded = await self._backends.embedder.embed(query.texts, is_query=True)
        hits: dict[str, Hit] = {}
        for text, vector in zip(query.texts, embedded.vectors, strict=True):
            request = SearchRequest(
                query_text=text,
                query_vector=vector,
                top_k=RERANK_CANDIDATES if reranker else query.max_num_results,
                mode=query.mode,
                filter=target.filter,
                score_threshold=query.score_threshold or ANY_SIMILARITY,
                fingerprint=embedded.fingerprint,
            )
            found, ms = await self._search(target.collection, request, tenant)
            for stage, stage_ms in ms.items():
                stages.ms[stage] = round(stages.ms.get(stage, 0.0) + stage_ms, 3)
            for hit in found:
                if hit.chunk_id not in hits or hits[hit.chunk_id].score < hit.score:
                    hits[hit.chunk_id] = hit
        ordered = sorted(hits.values(), key=lambda hit: (-hit.score, -hit.scores["dense"], hit.chunk_id))
        if reranker is not None and ordered:
            with stages.timed("rerank"):
                ordered = await self._reranked(reranker, query, ordered)
        chunks = await asyncio.to_thread(self._with_files, tenant, store_id, ordered)
        return Found(chunks[: query.max_num_results], stages.ms)

    async def targets(
        self, tenant: str, store_ids: Sequence[str], raw_filter: Mapping[str, Any] | None
    ) -> list[Target]:
        """Where to search for these stores, which counts as their use. Errors as `search`."""
        own, others = await asyncio.to_thread(self._told_apart, tenant, store_ids)
        found = []
        if own:
            await asyncio.to_thread(self.stores.touch, own)
            name = collection_of(tenant)
            keys = None
            if raw_filter is not None:
                known = await asyncio.to_thread(self.stores.files.attribute_keys, tenant, own)
                keys = Keys(known, await self._indexed_keys(name))
            found.append(Target(name, store_filter(own, raw_filter, keys)))
        for store_id in others:
            found.append(Target(await self._collection(tenant, store_id), raw_filter))
        return found

    async def collection_store(self, tenant: str, store_id: str) -> VectorStore:
        """A collection as a store. Raises NotFound for one that is not there or holds nothing of this tenant."""
        name = await self._collection(tenant, store_id)
        return as_store(tenant, name, await self.limited(self.collections.count_documents(name, tenant)))

    async def _collection(self, tenant: str, store_id: str) -> str:
        """The collection that a store's id means. Errors as `collection_store`."""
        name = store_id.removeprefix(STORE_PREFIX)
        if name == store_id or name.startswith(COLLECTION_PREFIX):
            raise unknown_store(store_id)
        try:
            num_chunks = await self.limited(self.collections.count(name, tenant))
        except NotFound as exc:
            raise unknown_store(store_id) from exc
        if not num_chunks:
            raise unknown_store(store_id)
        return name

    async def collection_stores(self, tenant: str) -> list[VectorStore]:
        """Every collection that holds something of this tenant and is no store's, by name."""
        stores = []
        for name in await self.limited(self.collections.collection_names()):
            if not name.startswith(COLLECTION_PREFIX):
                try:
                    stores.append(await self.collection_store(tenant, STORE_PREFIX + name))
                except NotFound:
                    continue
        return stores

    async def collection_files(self, tenant: str, store: VectorStore) -> list[StoreFile]:
        """The documents of a collection in the form of files, by id."""
        documents = await self.limited(self.collections.documents(store.name, tenant))
        return [_as_file(tenant, store.id, document) for document in documents]

    async def num_unread(self, tenant: str, store_ids: Sequence[str]) -> int:
        """Files of these stores that are still being read."""
        own, _ = await asyncio.to_thread(self._told_apart, tenant, store_ids)
        stores = await asyncio.to_thread(lambda: [self.stores.get(tenant, store_id) for store_id in own])
        return sum(store.file_counts.in_progress for store in stores)

    async def limited(self, call: Any) -> Any:
        """What the collections answer. Raises Unavailable when they do not within COLLECTIONS_TIMEOUT_S."""
        try:
            async with asyncio.timeout(COLLECTIONS_TIMEOUT_S):
                return await call
        except TimeoutError as exc:
            raise Unavailable(
                f"the vector store did not answer within {COLLECTIONS_TIMEOUT_S:g} s",
                code="store_unavailable",
            ) from exc

    def _told_apart(self, tenant: str, store_ids: Sequence[str]) -> tuple[list[str], list[str]]:
        """Stores of the database, and what may be collections. Raises Conflict for one that has expired."""
        own, others = [], []
        for store_id in dict.fromkeys(store_ids):
            try:
                self.stores.require_usable(tenant, store_id)
                own.append(store_id)
            except NotFound:
                others.append(store_id)
        return own, others

    async def _search(
        self, collection: str, request: SearchRequest, tenant: str
    ) -> tuple[Sequence[Hit], Mapping[str, float]]:
        try:
            result = await self.limited(self.collections.search(collection, request, tenant))
        except NotFound:
            return (), {}  # made when the first file is read
        return result.hits, result.stages_ms

    async def _indexed_keys(self, collection: str) -> Sequence[str]:
        try:
            return list((await self.limited(self.collections.describe(collection))).fields)
        except NotFound:
            return ()

    async def _reranked(self, model: ServedModel, query: Query, hits: Sequence[Hit]) -> list[Hit]:
        texts = [indexed_text(hit.context, hit.text) for hit in hits]
        judged = await relevance(self._backends, model, " ".join(query.texts), texts)
        return [
            replace(
                hits[index],
                score=judged.scores[index],
                scores={**hits[index].scores, "rerank": judged.scores[index]},
            )
            for index in judged.ranking()
        ]

    def _with_files(self, tenant: str, store_id: str, hits: Sequence[Hit]) -> list[FoundChunk]:
        """Hits with their files; those of a file that has just been taken out are left out."""
        if hits and not hits[0].collection.startswith(COLLECTION_PREFIX):
            return [_of_collection(hit) for hit in hits]
        keys = [(store_id_of(hit.document_id), file_id_of(hit.document_id)) for hit in hits]
        files = self.stores.files.found(tenant, set(keys))
        pairs = [(hit, files.get(key)) for hit, key in zip(hits, keys, strict=True)]
        return [_of_file(hit, file) for hit, file in pairs if file is not None]


def equality_filter(pairs: Mapping[str, Any]) -> dict[str, Any] | None:
    """Key by key equality in OpenAI's filter form; None for no filter.

    >>> equality_filter({"team": "hr"})
    {'type': 'eq', 'key': 'team', 'value': 'hr'}
    """
    parts = [{"type": "eq", "key": key, "value": value} for key, value in pairs.items()]
    if len(parts) < 2:
        return parts[0] if parts else None
    return {"type": "and", "filters": parts}


def as_store(tenant: str, collection: str, num_documents: int) -> VectorStore:
    """A collection in the form of a store. When it was made is not known; it counts as the oldest."""
    return VectorStore(
        STORE_PREFIX + collection, tenant, collection, "", 0.0, 0.0, None, {}, FileCounts(0, num_documents), 0
    )


def is_collection(store: VectorStore) -> bool:
    """Whether a store is what `as_store` made of a collection."""
    return not store.created_at and store.id == STORE_PREFIX + store.name


def _as_file(tenant: str, store_id: str, document: DocumentRecord) -> StoreFile:
    return StoreFile(
        id=document.document_id,
        store_id=store_id,
        tenant=tenant,
        created_at=0.0,
        filename=filename_of(document),
        status=FileStatus.COMPLETED,
        error=None,
        usage_bytes=0,
        attributes={key: value for key, value in document.metadata.items() if not isinstance(value, tuple)},
        chunking=None,
        version=0,
    )


def filled_elsewhere(store_id: str) -> Conflict:
    name = store_id.removeprefix(STORE_PREFIX)
    return Conflict(
        f"{store_id!r} is the collection {name!r}, which python -m retrieval fills and deletes from",
        "vector_store_id",
        "vector_store_read_only",
    )


def _of_collection(hit: Hit) -> FoundChunk:
    return FoundChunk(hit, hit.document_id, filename_of(hit), dict(hit.metadata))


def _of_file(hit: Hit, file: StoreFile) -> FoundChunk:
    return FoundChunk(hit, file.id, file.filename, file.attributes)
