"""What is searched for a chat, and where: one collection, or the stores that the request names."""

from __future__ import annotations

from collections.abc import Sequence

from cluster.errors import Conflict, InvalidInput, NotFound, Unavailable
from retrieval.store import unknown_collection
from serving.backends import Backends, SearchJob
from serving.catalogue import Catalogue, ServedModel
from serving.config import RetrieverConfig
from serving.errors import renamed
from serving.prepared import Prepared
from serving.prompts import Passage, last_user_turn, standalone_query
from serving.reranking import find_reranker, relevance
from serving.schemas import ChatRequest
from serving.vector_store_index import COLLECTION_PREFIX
from serving.vector_store_search import Target, VectorStoreSearch, equality_filter

# What a search calls its fields, by the names that a chat sends them by.
SENT_AS_OPTIONS = {"collection": "hamlet.collection", "filters": "hamlet.filters"}
SENT_AS_TOOL = {"vector_store_id": "tools[0].vector_store_ids", "filters": "tools[0].filters"}


class ChatSearch:
    """Finds passages for chats with the parts of one application."""

    def __init__(
        self,
        config: RetrieverConfig,
        backends: Backends,
        catalogue: Catalogue,
        stores: VectorStoreSearch | None,
    ) -> None:
        self._config = config
        self._backends = backends
        self._catalogue = catalogue
        self._stores = stores

    async def reranker(self, request: ChatRequest, tenant: str) -> ServedModel | None:
        """The reranker that the request names. Raises NotFound, Conflict or InvalidInput for one that ranks nothing."""
        name = request.hamlet.rerank
        if name is None:
            return None
        return await find_reranker(self._catalogue.of(tenant), name, "hamlet.rerank")

    async def passages(self, prepared: Prepared, request: ChatRequest, tenant: str) -> Sequence[Passage]:
        """Hits, best first: in the order of the reranker where there is one. Raises what retrieval raises."""
        query = standalone_query(prepared.job.messages)
        if not query:
            at = last_user_turn(prepared.job.messages)
            raise InvalidInput(
                f"messages[{at}] is empty, and the documents are searched for what it asks",
                f"messages[{at}].content",
            )
        with prepared.stages.measure("embed"):
            embedded = await self._backends.embedder.embed([query], is_query=True)
        options, tool = request.hamlet, request.file_search
        reranker = prepared.reranker
        top_k = (tool.max_num_results if tool else None) or options.top_k or self._config.top_k
        sent_as = SENT_AS_TOOL if tool else SENT_AS_OPTIONS
        with prepared.stages.measure("search"):
            try:
                jobs = [
                    SearchJob(
                        collection=target.collection,
                        text=query,
                        vector=embedded.vectors[0],
                        fingerprint=embedded.fingerprint,
                        top_k=max(top_k, self._config.rerank_candidates) if reranker else top_k,
                        tenant=tenant,
                        filter=target.filter,
                    )
                    for target in await self._targets(request, tenant)
                ]
                hits = await self._found(jobs, known=tool is not None)
            except (NotFound, Conflict, InvalidInput) as exc:
                raise renamed(exc, sent_as) from exc
        if reranker is None or not hits:
            return hits
        with prepared.stages.measure("rerank"):
            judged = await relevance(self._backends, reranker, query, [hit.text for hit in hits])
        # Their scores stay cosines, so that a threshold keeps its meaning.
        return [hits[index] for index in judged.ranking(top_k)]

    async def passages_or_none(
        self, prepared: Prepared, request: ChatRequest, tenant: str
    ) -> Sequence[Passage] | None:
        """Hits, best first; None when retrieval is down, none when nothing has been ingested yet."""
        try:
            return await self.passages(prepared, request, tenant)
        except Unavailable:
            return None
        except NotFound:
            if request.hamlet.collection is not None or request.file_search is not None:
                raise
            return ()

    async def is_reading(self, request: ChatRequest, tenant: str) -> bool:
        """Whether files of the stores that the request names are still being read."""
        tool = request.file_search
        if tool is None or self._stores is None:
            return False
        return bool(await self._stores.num_unread(tenant, tool.vector_store_ids))

    def least_score(self, request: ChatRequest) -> float:
        """The cosine similarity from which on a hit is relevant."""
        tool = request.file_search
        asked = tool.ranking_options.score_threshold if tool else None
        asked = request.hamlet.score_threshold if asked is None else asked
        return self._config.least_score if asked is None else asked

    async def _targets(self, request: ChatRequest, tenant: str) -> Sequence[Target]:
        """Where to search: the stores that the request names, else one collection."""
        tool, options = request.file_search, request.hamlet
        if tool is None:
            collection = options.collection or self._config.collection
            if collection.startswith(COLLECTION_PREFIX):
                # What vector stores hold is searched by their ids; the name of a tenant is not to be tried out.
                raise unknown_collection(collection)
            return [Target(collection, equality_filter(options.filters or {}))]
        if self._stores is None:
            raise InvalidInput("this server has no vector stores", "tools[0]")
        return await self._stores.targets(tenant, tool.vector_store_ids, tool.filters)

    async def _found(self, jobs: Sequence[SearchJob], known: bool) -> Sequence[Passage]:
        """The hits of all jobs, best first. `known`: a collection may be missing, as no file has been read yet."""
        found: list[Passage] = []
        for job in jobs:
            try:
                found += await self._backends.retriever.search(job)
            except NotFound:
                if not known:
                    raise
        # One search has its own order, which words count in too; several meet by similarity.
        return found if len(jobs) == 1 else sorted(found, key=lambda hit: -hit.score)[: jobs[0].top_k]
