"""Why a document was found, or was not: what each stage made of its best chunk."""

from __future__ import annotations

import string
from collections.abc import Mapping
from dataclasses import dataclass, replace

from cluster.tenants import DEFAULT_TENANT
from retrieval.bm25 import weigh_document, weigh_query
from retrieval.chunks import indexed_text
from retrieval.client import CollectionsClient
from retrieval.points import Hit
from retrieval.rerank import Reranker, rerank
from retrieval.search import MAX_TOP_K, MIN_CANDIDATES, Mode, SearchRequest


@dataclass(frozen=True)
class Explanation:
    """The best chunk of a document for a question: the one that a hybrid search puts first, or its reranker.

    `ranks` has its rank from 1 in each stage that had it, among the first MAX_TOP_K; a reranker orders the first
    MIN_CANDIDATES. `shared_words` are the words
    of the question that BM25 found in it, `missing_words` the others.
    """

    hit: Hit
    ranks: Mapping[str, int]
    shared_words: tuple[str, ...]
    missing_words: tuple[str, ...]


def explain(
    collections: CollectionsClient,
    collection: str,
    request: SearchRequest,
    document_id: str,
    tenant: str = DEFAULT_TENANT,
    reranker: Reranker | None = None,
) -> Explanation | None:
    """What the stages of a search made of a document; None when no stage had it."""
    wide = replace(request, top_k=MAX_TOP_K, score_threshold=None, diversity=0.0)
    found = {
        stage: collections.search(collection, replace(wide, mode=mode), tenant)
        for stage, mode in (("dense", Mode.DENSE), ("bm25", Mode.BM25), ("rrf", Mode.HYBRID))
    }
    if reranker is not None:
        candidates = replace(found["rrf"], hits=found["rrf"].hits[:MIN_CANDIDATES])
        found["rerank"] = rerank(request.query_text, candidates, reranker, MIN_CANDIDATES)
    ranks: dict[str, int] = {}
    best: Hit | None = None
    # The last stage first, since it chooses the chunk whose ranks in the others are looked up.
    for stage, result in reversed(found.items()):
        for rank, hit in enumerate(result.hits, start=1):
            if hit.document_id == document_id and (best is None or hit.chunk_id == best.chunk_id):
                best = best or hit
                ranks[stage] = rank
                break
    if best is None:
        return None
    shared, missing = _words(request.query_text, indexed_text(best.context, best.text))
    # As a search goes through them.
    in_order = {stage: ranks[stage] for stage in found if stage in ranks}
    return Explanation(best, in_order, shared, missing)


def _words(question: str, text: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The question's words that BM25 counts, split by whether the text has them."""
    inside = set(weigh_document(text).indices)
    # Code names stay whole, which BM25 splits; what stands around a word in a sentence is no part of it.
    words = dict.fromkeys(word.strip(string.punctuation) for word in question.split())
    counted = [(word, weigh_query(word).indices) for word in words]
    shared = tuple(word for word, indices in counted if indices and set(indices) <= inside)
    missing = tuple(word for word, indices in counted if indices and not set(indices) <= inside)
    return shared, missing
