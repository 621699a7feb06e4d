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
from retrieval.search import MAX_TOP_K, Mode, SearchRequest


@dataclass(frozen=True)
class Explanation:
    """The best chunk of a document for a question: the one that a hybrid search puts first.

    `ranks` has its rank from 1 in each stage that had it, among the first MAX_TOP_K. `shared_words` are the words
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
    # The last stage first, since it chooses the chunk whose ranks in the others are looked up.
    for mode, stage in ((Mode.HYBRID, "rrf"), (Mode.DENSE, "dense"), (Mode.BM25, "bm25")):
        wide = replace(request, mode=mode, top_k=MAX_TOP_K, score_threshold=None, diversity=0.0)
        hits = collections.search(collection, wide, tenant).hits
        for rank, hit in enumerate(hits, start=1):
            if hit.document_id == document_id and (best is None or hit.chunk_id == best.chunk_id):
                best = best or hit
                ranks[stage] = rank
                break
    if best is None:
        return None
    shared, missing = _words(request.query_text, indexed_text(best.context, best.text))
    # As a search goes through them.
    in_order = sorted(ranks.items(), key=lambda item: ("dense", "bm25", "rrf").index(item[0]))
    return Explanation(best, dict(in_order), shared, missing)


def _words(question: str, text: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The question's words that BM25 counts, split by whether the text has them."""
    inside = set(weigh_document(text).indices)
    # Code names stay whole, which BM25 splits; what stands around a word in a sentence is no part of it.
    words = dict.fromkeys(word.strip(string.punctuation) for word in question.split())
    counted = [(word, weigh_query(word).indices) for word in words]
    shared = tuple(word for word, indices in counted if indices and set(indices) <= inside)
    missing = tuple(word for word, indices in counted if indices and not set(indices) <= inside)
    return shared, missing
