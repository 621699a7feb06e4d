"""Why a document was found, or was not: what each stage made of its best chunk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from cluster.tenants import DEFAULT_TENANT
from retrieval.bm25 import weigh_document, weigh_query
from retrieval.chunks import indexed_text
from retrieval.client import CollectionsClient
from retrieval.points import Hit
from retrieval.search import MAX_TOP_K, Mode, SearchRequest


@dataclass(frozen=True)
class Explanation:
    """The best chunk of a document for a question.

    `ranks` has its rank from 1 in each stage that had it, among the first 1000. `shared_words` are the words
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
) -> Explanation | None:
    """What the stages of a search made of a document; None when no stage had it."""
    ranks: dict[str, int] = {}
    best: Hit | None = None
    for mode, stage in ((Mode.DENSE, "dense"), (Mode.BM25, "bm25"), (Mode.HYBRID, "rrf")):
        wide = replace(request, mode=mode, top_k=MAX_TOP_K, score_threshold=None, diversity=0.0)
        hits = collections.search(collection, wide, tenant).hits
        found = [(rank, hit) for rank, hit in enumerate(hits, start=1) if hit.document_id == document_id]
        if found:
            ranks[stage], best = found[0]
    if best is None:
        return None
    shared, missing = _words(request.query_text, indexed_text(best.context, best.text))
    return Explanation(best, ranks, shared, missing)


def _words(question: str, text: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The question's words that BM25 counts, split by whether the text has them."""
    inside = set(weigh_document(text).indices)
    counted = [(word, weigh_query(word).indices) for word in dict.fromkeys(question.split())]
    shared = tuple(word for word, indices in counted if indices and set(indices) <= inside)
    missing = tuple(word for word, indices in counted if indices and not set(indices) <= inside)
    return shared, missing
