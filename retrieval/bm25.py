"""Texts to BM25 term weights, for the sparse side of every store.

Tokenising, stop words and stemming are the Qdrant engine's own, and so is the hashing of words to indices.
Document frequencies are the store's part: a query's weights are all 1, and the store multiplies by IDF.
"""

from __future__ import annotations

from qdrant_edge import Bm25, Bm25Config

from retrieval.store import SparseVector

# Words of an average chunk, for BM25's length normalisation. Chunks are bounded, so it hardly varies.
AVERAGE_WORDS = 80

_MODEL = Bm25(Bm25Config(avg_len=AVERAGE_WORDS))


def weigh_document(text: str) -> SparseVector:
    """Saturated term frequencies of a chunk: tf * (k + 1) / (tf + k * (1 - b + b * length / average))."""
    vector = _MODEL.embed_document(text)
    return SparseVector(tuple(vector.indices), tuple(vector.values))


def weigh_query(text: str) -> SparseVector:
    """Weight 1 for each distinct word of a question; empty when it has only stop words."""
    vector = _MODEL.embed_query(text)
    return SparseVector(tuple(vector.indices), tuple(vector.values))
