"""`/v1/vector_stores`: stores, their files and file batches, and searches, in OpenAI's shapes."""

from __future__ import annotations

import asyncio
import time
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request

from cluster.errors import NotFound
from cluster.vector_store_records import FileStatus
from serving import object_schemas as shapes
from serving.admission import Admission
from serving.authentication import tenant_of
from serving.idempotency import KeyHeader, key_of
from serving.lists import list_object
from serving.openapi import answers, routes_of
from serving.vector_store_index import collection_of, document_id
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
    PageQuery,
    SearchStore,
    UpdateAttributes,
)
from serving.vector_store_search import Query as SearchQuery
from serving.vector_store_search import VectorStoreSearch
from serving.vector_store_verbs import VectorStoreVerbs

Paging = Annotated[PageQuery, Depends()]
ONE_STORE, ONE_FILE = answers(shapes.VectorStore), answers(shapes.VectorStoreFile)
ONE_BATCH, FILE_LIST = answers(shapes.VectorStoreFileBatch), answers(shapes.VectorStoreFileList)


def router(verbs: VectorStoreVerbs, admission: Admission) -> APIRouter:
    """The endpoints. A search, which asks the models, takes a place as other requests to them do."""
    api = routes_of("Vector stores", "/v1/vector_stores")
    _add_stores(api, verbs)
    _add_search(api, verbs.search, admission)
    _add_files(api, verbs)
    _add_batches(api, verbs)
    return api


def _add_stores(api: APIRouter, verbs: VectorStoreVerbs) -> None:
    stores = verbs.stores

    @api.post("", summary="Create vector store", responses=ONE_STORE)
    async def create(body: CreateStore, request: Request, key_name: KeyHeader = None) -> dict[str, Any]:
        tenant, key = tenant_of(request), key_of(key_name, body)
        if made := await asyncio.to_thread(stores.made_before, tenant, key):
            return store_object(made, time.time())
        wanted = [
            AttachFile(file_id=file_id, chunking_strategy=body.chunking_strategy) for file_id in body.file_ids
        ]
        files = await verbs.new_files(tenant, wanted, "file_ids")
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

    @api.get("/{vector_store_id}", summary="Retrieve vector store", responses=ONE_STORE)
    async def retrieve(vector_store_id: str, request: Request) -> dict[str, Any]:
        return store_object(await verbs.find(tenant_of(request), vector_store_id), time.time())

    @api.post("/{vector_store_id}", summary="Modify vector store", responses=ONE_STORE)
    async def modify(vector_store_id: str, body: ModifyStore, request: Request) -> dict[str, Any]:
        tenant = tenant_of(request)
        await verbs.require_own(tenant, vector_store_id)
        changed = await asyncio.to_thread(lambda: stores.modify(tenant, vector_store_id, **body.changes))
        return store_object(changed, time.time())

    @api.delete(
        "/{vector_store_id}", summary="Delete vector store", responses=answers(shapes.DeletedVectorStore)
    )
    async def delete(vector_store_id: str, request: Request) -> dict[str, Any]:
        tenant = tenant_of(request)
        await verbs.require_own(tenant, vector_store_id)
        await verbs.remove_store(tenant, vector_store_id)
        return {"id": vector_store_id, "object": "vector_store.deleted", "deleted": True}


def _add_search(api: APIRouter, searches: VectorStoreSearch, admission: Admission) -> None:
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
        with admission.place() as deadline:
            found = await deadline.bound(searches.search(tenant_of(request), vector_store_id, query), request)
        return search_page(query.texts, found, body.hamlet.explain)


def _add_files(api: APIRouter, verbs: VectorStoreVerbs) -> None:
    stores = verbs.stores

    @api.post("/{vector_store_id}/files", summary="Create vector store file", responses=ONE_FILE)
    async def attach(vector_store_id: str, body: AttachFile, request: Request) -> dict[str, Any]:
        tenant = tenant_of(request)
        await verbs.require_own(tenant, vector_store_id)
        (file,) = await verbs.new_files(tenant, [body])
        return file_object(await asyncio.to_thread(stores.files.attach, tenant, vector_store_id, file))

    @api.get("/{vector_store_id}/files", summary="List vector store files", responses=FILE_LIST)
    async def listing(
        vector_store_id: str, request: Request, paging: Paging, filter: FileStatus | None = None
    ) -> dict[str, Any]:
        tenant = tenant_of(request)
        if (collection := await verbs.collection(tenant, vector_store_id)) is not None:
            # Every document of a collection is read.
            is_empty = filter not in (None, FileStatus.COMPLETED)
            documents = [] if is_empty else await verbs.search.collection_files(tenant, collection)
            return list_object(paging.page_of(documents), file_object)
        page = await asyncio.to_thread(
            lambda: stores.files.list(tenant, vector_store_id, status=filter, **paging.arguments())
        )
        return list_object(page, file_object)

    @api.get("/{vector_store_id}/files/{file_id}", summary="Retrieve vector store file", responses=ONE_FILE)
    async def retrieve(vector_store_id: str, file_id: str, request: Request) -> dict[str, Any]:
        tenant = tenant_of(request)
        return file_object(await asyncio.to_thread(stores.files.get, tenant, vector_store_id, file_id))

    @api.post(
        "/{vector_store_id}/files/{file_id}",
        summary="Update vector store file attributes",
        responses=ONE_FILE,
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
        "/{vector_store_id}/file_batches", summary="Create vector store file batch", responses=ONE_BATCH
    )
    async def create(
        vector_store_id: str, body: AttachBatch, request: Request, key_name: KeyHeader = None
    ) -> dict[str, Any]:
        tenant, key = tenant_of(request), key_of(key_name, body, vector_store_id)
        await verbs.require_own(tenant, vector_store_id)
        if made := await asyncio.to_thread(stores.files.batch_made_before, tenant, vector_store_id, key):
            return batch_object(made)
        files = await verbs.new_files(tenant, body.requests, "files" if body.files else "file_ids")
        return batch_object(
            await asyncio.to_thread(stores.files.attach_batch, tenant, vector_store_id, files, key)
        )

    @api.get(
        "/{vector_store_id}/file_batches/{batch_id}",
        summary="Retrieve vector store file batch",
        responses=ONE_BATCH,
    )
    async def retrieve(vector_store_id: str, batch_id: str, request: Request) -> dict[str, Any]:
        tenant = tenant_of(request)
        return batch_object(await asyncio.to_thread(stores.files.batch, tenant, vector_store_id, batch_id))

    @api.post(
        "/{vector_store_id}/file_batches/{batch_id}/cancel",
        summary="Cancel vector store file batch",
        responses=ONE_BATCH,
    )
    async def cancel(vector_store_id: str, batch_id: str, request: Request) -> dict[str, Any]:
        tenant = tenant_of(request)
        return batch_object(
            await asyncio.to_thread(stores.files.cancel_batch, tenant, vector_store_id, batch_id)
        )

    @api.get(
        "/{vector_store_id}/file_batches/{batch_id}/files",
        summary="List vector store files in batch",
        responses=FILE_LIST,
    )
    def files(
        vector_store_id: str,
        batch_id: str,
        request: Request,
        paging: Paging,
        filter: FileStatus | None = None,
    ) -> dict[str, Any]:
        tenant = tenant_of(request)
        page = stores.files.list(
            tenant, vector_store_id, batch_id=batch_id, status=filter, **paging.arguments()
        )
        return list_object(page, file_object)
