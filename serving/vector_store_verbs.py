"""What the endpoints of vector stores do beyond one transaction: files, rows and chunks kept in step."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress

from cluster.errors import NotFound
from cluster.files import Files
from cluster.paging import Page, cut
from cluster.vector_store_queue import VectorStoreQueue
from cluster.vector_store_records import FileStatus, NewFile, StoreFile, VectorStore
from cluster.vector_stores import VectorStores
from serving.backends import EmbedderBackend
from serving.errors import renamed
from serving.vector_store_index import chunking_of, collection_of, document_id, stored_metadata
from serving.vector_store_requests import AttachFile, PageQuery
from serving.vector_store_search import VectorStoreSearch, filled_elsewhere

# Documents that are removed from a collection in one call.
REMOVED_AT_ONCE = 256


class VectorStoreVerbs:
    """What is asked of stores and their files, by tenant."""

    def __init__(
        self, search: VectorStoreSearch, files: Files, queue: VectorStoreQueue, embedder: EmbedderBackend
    ) -> None:
        self.search = search
        self.stores: VectorStores = search.stores
        self._files = files
        self._queue = queue
        self._embedder = embedder

    async def new_files(
        self, tenant: str, requests: Sequence[AttachFile], param: str = "file_id"
    ) -> list[NewFile]:
        """Files to attach, each once; `param` is the field that names them.

        Raises NotFound, and InvalidInput for chunks that do not fit the embedder.
        """
        if not requests:
            return []
        info = await self._embedder.describe()
        wanted = {request.file_id: request for request in requests}
        try:
            files = await asyncio.to_thread(self._files.some, tenant, list(wanted))
        except NotFound as exc:
            raise renamed(exc, {"file_id": param}) from exc
        return [
            NewFile(
                file.id,
                file.filename,
                chunking_of(request.chunking_strategy.numbers if request.chunking_strategy else None, info),
                dict(request.attributes or {}),
            )
            for file, request in zip(files, wanted.values(), strict=True)
        ]

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

    async def collection(self, tenant: str, store_id: str) -> VectorStore | None:
        """The collection that an id means; None for a store, whose files are not counted. Raises NotFound."""
        if await asyncio.to_thread(self.stores.is_known, tenant, store_id):
            return None
        return await self.search.collection_store(tenant, store_id)

    async def require_own(self, tenant: str, store_id: str) -> None:
        """Raises NotFound, and Conflict for a collection, which cannot be changed here."""
        if await self.collection(tenant, store_id) is not None:
            raise filled_elsewhere(store_id)

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
