"""Texts to BM25 term weights, for the sparse side of every store.

Tokenising, stop words and stemming are the Qdrant engine's own, and so is the hashing of words to indices.
Document frequencies are the store's part: a query's weights are all 1, and the store multiplies by IDF.
"""

from __future__ import annotations

import re
import unicodedata

from qdrant_edge import Bm25, Bm25Config

from retrieval.store import SparseVector

# Words of an average chunk, for BM25's length normalisation. Chunks are bounded, so it hardly varies.
AVERAGE_WORDS = 80

SOFT_HYPHEN = "\u00ad"

# Where a name such as HTTPServer or lastIndexOf is cut. Names with underscores are cut by the engine.
_WORD = re.compile(r"\w+")
_HUMP = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")

_MODEL = Bm25(Bm25Config(avg_len=AVERAGE_WORDS))


def weigh_document(text: str) -> SparseVector:
    """Saturated term frequencies of a chunk: tf * (k + 1) / (tf + k * (1 - b + b * length / average))."""
    vector = _MODEL.embed_document(_with_parts(text))
    return SparseVector(tuple(vector.indices), tuple(vector.values))


def weigh_query(text: str) -> SparseVector:
    """Weight 1 for each distinct word of a question; empty when it has only stop words."""
    vector = _MODEL.embed_query(_with_parts(text))
    return SparseVector(tuple(vector.indices), tuple(vector.values))


def _with_parts(text: str) -> str:
    """The text, and behind it the words of its camel-case names, so that either way of asking finds them.

    Words that look alike are the same, however they are encoded: with ligatures, accents apart or soft hyphens.

    >>> _with_parts("Use a ThreadPoolExecutor.")
    'Use a ThreadPoolExecutor. Thread Pool Executor'
    """
    text = unicodedata.normalize("NFKC", text).replace(SOFT_HYPHEN, "")
    names = (name for name in _WORD.findall(text) if _HUMP.search(name))
    return " ".join([text, *(_HUMP.sub(" ", name) for name in names)])
