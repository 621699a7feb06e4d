"""Hits for a question, from the vector store that retrieval owns."""

from __future__ import annotations

from typing import Any

from retrieval.chunks import indexed_text
from retrieval.owner import async_collections
from retrieval.points import Hit
from retrieval.search import SearchRequest
from serving.backends import SearchJob
from serving.prompts import Passage
from serving.vector_store_index import file_id_of, filename_of

# Below every cosine: asks for the similarity of each hit, also of those that only their words brought in.
ANY_SIMILARITY = -1.0


class Retriever:
    """Searches for the router. `collections` defaults to the store of this cluster."""

    def __init__(self, collections: Any = None) -> None:
        self._collections = collections or async_collections()

    async def search(self, job: SearchJob) -> list[Passage]:
        """Hits of the caller's tenant, best first.

        Raises NotFound for an unknown collection, InvalidInput for a filter on an unknown key, Conflict for
        one made with another embedder, and StoreUnavailable.
        """
        request = SearchRequest(
            query_text=job.text,
            query_vector=job.vector,
            top_k=job.top_k,
            filter=job.filter,
            score_threshold=ANY_SIMILARITY,
            fingerprint=job.fingerprint,
        )
        result = await self._collections.search(job.collection, request, job.tenant)
        return [passage(hit) for hit in result.hits]

    async def check_health(self) -> None:
        """Raise StoreUnavailable when the store does not answer."""
        await self._collections.collection_names()


def passage(hit: Hit) -> Passage:
    """A hit as a passage of a prompt: its context, such as title and headings, stands before its text."""
    return Passage(
        chunk_id=hit.chunk_id,
        document_id=file_id_of(hit.document_id),
        filename=filename_of(hit),
        text=indexed_text(hit.context, hit.text),
        score=hit.scores["dense"],
        page=hit.page,
    )
