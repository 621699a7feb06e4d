"""`/v1/vector_stores`: stores, their files and file batches, and searches, in OpenAI's shapes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request

from cluster.errors import NotFound
from cluster.files import Files
from cluster.paging import Page, cut
from cluster.vector_store_queue import VectorStoreQueue
from cluster.vector_store_records import FileStatus, NewFile, StoreFile, VectorStore
from cluster.vector_stores import VectorStores
from serving import object_schemas as shapes
from serving.authentication import tenant_of
from serving.backends import EmbedderBackend
from serving.idempotency import KeyHeader, key_of
from serving.lists import list_object
from serving.openapi import answers, routes_of
from serving.vector_store_index import chunking_of, collection_of, document_id, stored_metadata
from serving.vector_store_objects import (
    batch_object,
    content_page,
    file_object,
    search_page,
    store_object,
)
from serving.vector_store_requests import (
    AttachBatch,
    AttachFile,
    CreateStore,
    ModifyStore,
    SearchStore,
    UpdateAttributes,
)
from serving.vector_store_search import Query as SearchQuery
from serving.vector_store_search import VectorStoreSearch, filled_elsewhere, is_collection


@dataclass(frozen=True)
class PageQuery:
    """The parameters of a listing, as OpenAI names them."""

    limit: Annotated[int, Query(ge=1, le=100)] = 20
    order: Literal["asc", "desc"] = "desc"
    after: str | None = None
    before: str | None = None

    @property
    def goes_back(self) -> bool:
        """Whether what stands in front of the cursor is asked for."""
        return self.after is None and self.before is not None

    def arguments(self) -> dict[str, Any]:
        """As `VectorStores` takes them."""
        ascending = self.order == "asc"
        return {"limit": self.limit, "after": self.after, "before": self.before, "ascending": ascending}

    def page_of(self, files: Sequence[StoreFile]) -> Page[StoreFile]:
        """A page of files that are all at hand, and all of one age. Raises NotFound for an unknown cursor."""
        ordered = sorted(files, key=lambda file: file.id, reverse=self.order == "desc")
        name, cursor = ("after", self.after) if self.after is not None else ("before", self.before)
        if cursor is None:
            return cut(ordered, self.limit)
        place = next((index for index, file in enumerate(ordered) if file.id == cursor), None)
        if place is None:
            raise NotFound(f"{name}: there is no {cursor!r} here; give an id of a page before", name)
        if name == "after":
            return cut(ordered[place + 1 :], self.limit)
        return Page(ordered[max(0, place - self.limit) : place], place > self.limit)


Paging = Annotated[PageQuery, Depends()]

# Documents that are removed from a collection in one call.
REMOVED_AT_ONCE = 256


class VectorStoreVerbs:
    """What the endpoints do beyond one transaction."""

    def __init__(
        self, search: VectorStoreSearch, files: Files, queue: VectorStoreQueue, embedder: EmbedderBackend
    ) -> None:
        self.search = search
        self.stores: VectorStores = search.stores
        self._files = files
        self._queue = queue
        self._embedder = embedder

    async def new_files(self, tenant: str, requests: Sequence[AttachFile]) -> list[NewFile]:
        """Files to attach, each once. Raises NotFound, and InvalidInput for chunks that do not fit the embedder."""
        if not requests:
            return []
        info = await self._embedder.describe()

        def look_up() -> list[NewFile]:
            return [
                NewFile(
                    request.file_id,
                    self._files.get(tenant, request.file_id).filename,
                    chunking_of(
                        request.chunking_strategy.numbers if request.chunking_strategy else None, info
                    ),
                    dict(request.attributes or {}),
                )
                for request in {request.file_id: request for request in requests}.values()
            ]

        return await asyncio.to_thread(look_up)

    async def listed(self, tenant: str, paging: PageQuery) -> Page[VectorStore]:
        """A page of stores, behind the last of which stand the collections, by name. Raises NotFound as `list`."""
        try:
            page = await asyncio.to_thread(lambda: self.stores.list(tenant, **paging.arguments()))
        except NotFound:
            others = await self.search.collection_stores(tenant)
            ids: list[str | None] = [store.id for store in others]
            if paging.after not in ids:
                raise
            return cut(others[ids.index(paging.after) + 1 :], paging.limit)
        if page.has_more or paging.goes_back:
            return page
        return cut([*page.data, *await self.search.collection_stores(tenant)], paging.limit)

    async def find(self, tenant: str, store_id: str) -> VectorStore:
        """A store, or a collection as one. Raises NotFound."""
        try:
            return await asyncio.to_thread(self.stores.get, tenant, store_id)
        except NotFound:
            return await self.search.collection_store(tenant, store_id)

    async def own(self, tenant: str, store_id: str) -> VectorStore:
        """A store that can be changed. Raises NotFound, and Conflict for a collection."""
        store = await self.find(tenant, store_id)
        if is_collection(store):
            raise filled_elsewhere(store_id)
        return store

    async def redescribe(self, file: StoreFile) -> StoreFile:
        """Give the chunks of a file its attributes; returns it as it then is. Raises NotFound when it is taken out.

        Others change the file meanwhile, and what we write may come after what they wrote: it is right when the file
        is still the one that we wrote for.
        """
        tenant, store_id, file_id = file.tenant, file.store_id, file.id
        while file.status is FileStatus.COMPLETED:
            metadata = stored_metadata(store_id, file.attributes)
            call = self.search.collections.set_metadata(
                collection_of(tenant), document_id(store_id, file_id), metadata, tenant
            )
            await self.search.limited(call)
            written = file
            try:
                file = await asyncio.to_thread(self.stores.files.get, tenant, store_id, file_id)
            except NotFound:
                await self.remove_chunks(tenant, store_id, [file_id])
                raise
            if file.version == written.version:
                break
        return file

    async def remove_chunks(self, tenant: str, store_id: str, file_ids: Sequence[str]) -> None:
        """Remove the chunks of files that are hidden already, and then their rows."""
        ids = [document_id(store_id, file_id) for file_id in file_ids]
        collections = self.search.collections
        with suppress(NotFound):  # no file has ever been read
            await self.search.limited(collections.delete_documents(collection_of(tenant), ids, tenant))
        await asyncio.to_thread(self._queue.forget, store_id, file_ids)

    async def remove_store(self, tenant: str, store_id: str) -> None:
        """Remove a store with all its chunks. What a worker is just writing, that worker removes."""
        await asyncio.to_thread(self.stores.delete, tenant, store_id)
        while gone := await asyncio.to_thread(self._queue.removing, store_id, REMOVED_AT_ONCE):
            await self.remove_chunks(tenant, store_id, gone)
        await asyncio.to_thread(self._queue.sweep)


def router(verbs: VectorStoreVerbs) -> APIRouter:
    """The endpoints."""
    api = routes_of("Vector stores", "/v1/vector_stores")
    _add_stores(api, verbs)
    _add_files(api, verbs)
    _add_batches(api, verbs)
    return api


def _add_stores(api: APIRouter, verbs: VectorStoreVerbs) -> None:
    stores = verbs.stores

    @api.post("", summary="Create vector store", responses=answers(shapes.VectorStore))
    async def create(body: CreateStore, request: Request, key_name: KeyHeader = None) -> dict[str, Any]:
        tenant, key = tenant_of(request), key_of(key_name, body)
        if made := await asyncio.to_thread(stores.made_before, tenant, key):
            return store_object(made, time.time())
        wanted = [
            AttachFile(file_id=file_id, chunking_strategy=body.chunking_strategy) for file_id in body.file_ids
        ]
        files = await verbs.new_files(tenant, wanted)
        store = await asyncio.to_thread(
            stores.create,
            tenant,
            body.name or "",
            body.description or "",
            body.metadata,
            body.expires_after.days if body.expires_after else None,
            files,
            key,
        )
        return store_object(store, time.time())

    @api.get("", summary="List vector stores", responses=answers(shapes.VectorStoreList))
    async def listing(request: Request, paging: Paging) -> dict[str, Any]:
        tenant = tenant_of(request)
        page = await verbs.listed(tenant, paging)
        return list_object(page, lambda store: store_object(store, time.time()))

    @api.get("/{vector_store_id}", summary="Retrieve vector store", responses=answers(shapes.VectorStore))
    async def retrieve(vector_store_id: str, request: Request) -> dict[str, Any]:
        return store_object(await verbs.find(tenant_of(request), vector_store_id), time.time())

    @api.post("/{vector_store_id}", summary="Modify vector store", responses=answers(shapes.VectorStore))
    async def modify(vector_store_id: str, body: ModifyStore, request: Request) -> dict[str, Any]:
        tenant = tenant_of(request)
        await verbs.own(tenant, vector_store_id)
        changed = await asyncio.to_thread(lambda: stores.modify(tenant, vector_store_id, **body.changes))
        return store_object(changed, time.time())

    @api.delete(
        "/{vector_store_id}", summary="Delete vector store", responses=answers(shapes.DeletedVectorStore)
    )
    async def delete(vector_store_id: str, request: Request) -> dict[str, Any]:
        tenant = tenant_of(request)
        await verbs.own(tenant, vector_store_id)
        await verbs.remove_store(tenant, vector_store_id)
        return {"id": vector_store_id, "object": "vector_store.deleted", "deleted": True}

    @api.post(
        "/{vector_store_id}/search", summary="Search vector store", responses=answers(shapes.SearchResults)
    )
    async def search(vector_store_id: str, body: SearchStore, request: Request) -> dict[str, Any]:
        query = SearchQuery(
            texts=body.queries,
            max_num_results=body.max_num_results,
            filter=body.filters,
            score_threshold=body.ranking_options.score_threshold,
            mode=body.ranking_options.mode,
            reranker=body.hamlet.rerank,
        )
        found = await verbs.search.search(tenant_of(request), vector_store_id, query)
        return search_page(query.texts, found, body.hamlet.explain)


def _add_files(api: APIRouter, verbs: VectorStoreVerbs) -> None:
    stores = verbs.stores

    @api.post(
        "/{vector_store_id}/files",
        summary="Create vector store file",
        responses=answers(shapes.VectorStoreFile),
    )
    async def attach(vector_store_id: str, body: AttachFile, request: Request) -> dict[str, Any]:
        tenant = tenant_of(request)
        await verbs.own(tenant, vector_store_id)
        (file,) = await verbs.new_files(tenant, [body])
        return file_object(await asyncio.to_thread(stores.files.attach, tenant, vector_store_id, file))

    @api.get(
        "/{vector_store_id}/files",
        summary="List vector store files",
        responses=answers(shapes.VectorStoreFileList),
    )
    async def listing(
        vector_store_id: str,
        request: Request,
        paging: Paging,
        filter: FileStatus | None = None,
    ) -> dict[str, Any]:
        tenant = tenant_of(request)
        store = await verbs.find(tenant, vector_store_id)
        if is_collection(store):
            # Every document of a collection is read.
            is_empty = filter not in (None, FileStatus.COMPLETED)
            documents = [] if is_empty else await verbs.search.collection_files(tenant, store)
            return list_object(paging.page_of(documents), file_object)
        page = await asyncio.to_thread(
            lambda: stores.files.list(tenant, vector_store_id, status=filter, **paging.arguments())
        )
        return list_object(page, file_object)

    @api.get(
        "/{vector_store_id}/files/{file_id}",
        summary="Retrieve vector store file",
        responses=answers(shapes.VectorStoreFile),
    )
    async def retrieve(vector_store_id: str, file_id: str, request: Request) -> dict[str, Any]:
        tenant = tenant_of(request)
        return file_object(await asyncio.to_thread(stores.files.get, tenant, vector_store_id, file_id))

    @api.post(
        "/{vector_store_id}/files/{file_id}",
        summary="Update vector store file attributes",
        responses=answers(shapes.VectorStoreFile),
    )
    async def update(
        vector_store_id: str, file_id: str, body: UpdateAttributes, request: Request
    ) -> dict[str, Any]:
        tenant, attributes = tenant_of(request), dict(body.attributes or {})
        file = await asyncio.to_thread(
            stores.files.set_attributes, tenant, vector_store_id, file_id, attributes
        )
        return file_object(await verbs.redescribe(file))

    @api.get(
        "/{vector_store_id}/files/{file_id}/content",
        summary="Retrieve vector store file content",
        responses=answers(shapes.FileContent),
    )
    async def content(vector_store_id: str, file_id: str, request: Request) -> dict[str, Any]:
        tenant = tenant_of(request)
        await asyncio.to_thread(stores.files.get, tenant, vector_store_id, file_id)
        document = document_id(vector_store_id, file_id)
        try:
            chunks = await verbs.search.limited(
                verbs.search.collections.chunks(collection_of(tenant), document, tenant)
            )
        except NotFound:
            chunks = []  # no file has been read yet
        return content_page(chunks)

    @api.delete(
        "/{vector_store_id}/files/{file_id}",
        summary="Delete vector store file",
        responses=answers(shapes.DeletedVectorStoreFile),
    )
    async def delete(vector_store_id: str, file_id: str, request: Request) -> dict[str, Any]:
        tenant = tenant_of(request)
        await asyncio.to_thread(stores.files.detach, tenant, vector_store_id, file_id)
        await verbs.remove_chunks(tenant, vector_store_id, [file_id])
        return {"id": file_id, "object": "vector_store.file.deleted", "deleted": True}


def _add_batches(api: APIRouter, verbs: VectorStoreVerbs) -> None:
    stores = verbs.stores

    @api.post(
        "/{vector_store_id}/file_batches",
        summary="Create vector store file batch",
        responses=answers(shapes.VectorStoreFileBatch),
    )
    async def create(
        vector_store_id: str, body: AttachBatch, request: Request, key_name: KeyHeader = None
    ) -> dict[str, Any]:
        tenant, key = tenant_of(request), key_of(key_name, body, vector_store_id)
        await verbs.own(tenant, vector_store_id)
        if made := await asyncio.to_thread(stores.files.batch_made_before, tenant, vector_store_id, key):
            return batch_object(made)
        files = await verbs.new_files(tenant, body.requests)
        return batch_object(
            await asyncio.to_thread(stores.files.attach_batch, tenant, vector_store_id, files, key)
        )

    @api.get(
        "/{vector_store_id}/file_batches/{batch_id}",
        summary="Retrieve vector store file batch",
        responses=answers(shapes.VectorStoreFileBatch),
    )
    async def retrieve(vector_store_id: str, batch_id: str, request: Request) -> dict[str, Any]:
        tenant = tenant_of(request)
        return batch_object(await asyncio.to_thread(stores.files.batch, tenant, vector_store_id, batch_id))

    @api.post(
        "/{vector_store_id}/file_batches/{batch_id}/cancel",
        summary="Cancel vector store file batch",
        responses=answers(shapes.VectorStoreFileBatch),
    )
    async def cancel(vector_store_id: str, batch_id: str, request: Request) -> dict[str, Any]:
        tenant = tenant_of(request)
        return batch_object(
            await asyncio.to_thread(stores.files.cancel_batch, tenant, vector_store_id, batch_id)
        )

    @api.get(
        "/{vector_store_id}/file_batches/{batch_id}/files",
        summary="List vector store files in batch",
        responses=answers(shapes.VectorStoreFileList),
    )
    def files(
        vector_store_id: str,
        batch_id: str,
        request: Request,
        paging: Paging,
        filter: FileStatus | None = None,
    ) -> dict[str, Any]:
        page = stores.files.list(
            tenant_of(request),
            vector_store_id,
            batch_id=batch_id,
            status=filter,
            **paging.arguments(),
        )
        return list_object(page, file_object)
