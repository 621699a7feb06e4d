"""A search: the rankings that are made of a question, and how they become one list of hits.

    dense, bm25  ->  fuse (hybrid)  ->  threshold  ->  diversify  ->  hits

Reranking by a model comes after it, in the process that has the model (`rerank.py`).
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np

from cluster.errors import Conflict, InvalidInput
from retrieval.bm25 import weigh_query
from retrieval.filters import And, Filter, equals, parse_filter
from retrieval.fusion import maximal_marginal_relevance, reciprocal_rank_fusion
from retrieval.points import Hit, make_hit
from retrieval.store import CollectionInfo, Scored, VectorStore, require_embedder

MAX_TOP_K = 1000

# How deep each ranking goes when another stage follows: what is not in it, no later stage can bring back.
MIN_CANDIDATES = 50
CANDIDATES_PER_HIT = 4


class Mode(StrEnum):
    """Which rankings are made of a question."""

    DENSE = "dense"
    BM25 = "bm25"
    HYBRID = "hybrid"


@dataclass(frozen=True)
class SearchRequest:
    """A question to one collection.

    `query_vector`: [dimension] float32, L2-normalised, by the collection's embedder; needed unless the mode is
    bm25 alone. `filter` is OpenAI's vector-store form (`filters.py`). `score_threshold`: only hits whose similarity
    to the question is at least this, in every mode. `diversity` above 0 (to 1) picks hits unlike each other,
    by maximal marginal relevance. `fingerprint`, when given, must be that of the collection's embedder.
    """

    query_text: str
    query_vector: np.ndarray | None = None
    top_k: int = 10
    mode: Mode = Mode.HYBRID
    filter: Mapping[str, Any] | None = None
    score_threshold: float | None = None
    diversity: float = 0.0
    fingerprint: str | None = None

    @property
    def needs_vector(self) -> bool:
        return self.mode is not Mode.BM25 or self.score_threshold is not None or self.diversity > 0


@dataclass(frozen=True)
class SearchResult:
    """Hits, best first, and the milliseconds of each stage that ran, in order."""

    hits: tuple[Hit, ...]
    stages_ms: Mapping[str, float]


@dataclass
class _Candidate:
    found: Scored
    scores: dict[str, float]


class Stages:
    """Milliseconds by stage, in the order they ran."""

    def __init__(self) -> None:
        self.ms: dict[str, float] = {}

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.ms[name] = round((time.perf_counter() - start) * 1000, 3)


def search(store: VectorStore, info: CollectionInfo, request: SearchRequest, tenant: str) -> SearchResult:
    """The chunks of a tenant that answer a question best.

    Raises InvalidInput naming the field of a bad request, and Conflict for a vector of another embedder.
    """
    check_request(request, info)
    where: Filter = equals("tenant", tenant)
    if request.filter is not None:
        where = And((where, parse_filter(request.filter, info.fields)))
    stages = Stages()
    rankings = _rankings(store, info.spec.name, request, where, stages)
    final = next(iter(rankings))
    candidates = _collect(rankings)
    if len(rankings) > 1:
        final = "rrf"
        with stages.timed("fuse"):
            _fuse(candidates, rankings)
    if request.score_threshold is not None:
        with stages.timed("threshold"):
            _add_similarity(store, info.spec.name, request, where, candidates)
            # A chunk that was deleted since the ranking has no similarity, and is no hit.
            candidates = {
                id_: c
                for id_, c in candidates.items()
                if c.scores.get("dense", -math.inf) >= request.score_threshold
            }
    # Fused scores count ranks, so neighbours are often equal: the more similar one goes first.
    ordered = sorted(
        candidates.values(), key=lambda c: (-c.scores[final], -c.scores.get("dense", -1.0), c.found.id)
    )
    if request.diversity > 0:
        with stages.timed("diversify"):
            ordered = _diversified(ordered, request)
    best = ordered[: request.top_k]
    hits = tuple(make_hit(info.spec.name, c.found, c.scores[final], c.scores) for c in best)
    return SearchResult(hits, stages.ms)


def merge_results(results: Sequence[SearchResult], top_k: int) -> SearchResult:
    """One result from searches of several collections, best score first, ties by collection and chunk.

    Scores of a fused search count ranks, so that collections of different embedders can be merged.
    """
    hits = [hit for result in results for hit in result.hits]
    hits.sort(key=lambda hit: (-hit.score, hit.collection, hit.chunk_id))
    stages: dict[str, float] = {}
    for result in results:
        for name, ms in result.stages_ms.items():
            stages[name] = round(stages.get(name, 0.0) + ms, 3)
    return SearchResult(tuple(hits[:top_k]), stages)


def check_request(request: SearchRequest, info: CollectionInfo) -> None:
    """Raises InvalidInput or Conflict for a request that this collection cannot answer."""
    if not 1 <= request.top_k <= MAX_TOP_K:
        raise InvalidInput(f"top_k is {request.top_k}; it must be 1 to {MAX_TOP_K}", "top_k")
    if not 0.0 <= request.diversity <= 1.0:
        raise InvalidInput(f"diversity is {request.diversity}; it must be 0 to 1", "diversity")
    if not request.query_text.strip():
        raise InvalidInput("the query is empty; give a question", "query")
    if request.query_vector is None:
        if request.needs_vector:
            raise InvalidInput("the query has no vector; embed it, or search with mode bm25", "query_vector")
        return
    spec = info.spec
    if request.query_vector.shape != (spec.dimension,):
        raise Conflict(
            f"collection {spec.name!r} holds vectors of {spec.dimension} numbers by {spec.embedder}, the query "
            f"has {request.query_vector.size}; use that embedder, or move the collection to yours with "
            "python -m retrieval migrate",
            "query_vector",
            "embedder_mismatch",
        )
    if request.fingerprint is not None:
        require_embedder(spec, request.fingerprint)


def _rankings(
    store: VectorStore, name: str, request: SearchRequest, where: Filter, stages: Stages
) -> dict[str, list[Scored]]:
    """The candidates by each way of ranking, best first."""
    depth = request.top_k
    if request.mode is Mode.HYBRID or request.score_threshold is not None or request.diversity:
        depth = max(MIN_CANDIDATES, CANDIDATES_PER_HIT * request.top_k)
    with_vectors = request.diversity > 0
    rankings: dict[str, list[Scored]] = {}
    if request.mode is not Mode.BM25 and request.query_vector is not None:
        with stages.timed("dense"):
            rankings["dense"] = store.nearest(name, request.query_vector, depth, where, with_vectors)
    if request.mode is not Mode.DENSE:
        with stages.timed("bm25"):
            words = weigh_query(request.query_text)
            # A question of stop words alone has nothing to look up.
            rankings["bm25"] = store.nearest(name, words, depth, where, with_vectors) if words.indices else []
    return rankings


def _collect(rankings: Mapping[str, Sequence[Scored]]) -> dict[str, _Candidate]:
    candidates: dict[str, _Candidate] = {}
    for ranking, found in rankings.items():
        for hit in found:
            candidates.setdefault(hit.id, _Candidate(hit, {})).scores[ranking] = hit.score
    return candidates


def _fuse(candidates: Mapping[str, _Candidate], rankings: Mapping[str, Sequence[Scored]]) -> None:
    fused = reciprocal_rank_fusion([[hit.id for hit in found] for found in rankings.values()])
    for id_, score in fused.items():
        candidates[id_].scores["rrf"] = score


def _add_similarity(
    store: VectorStore,
    name: str,
    request: SearchRequest,
    where: Filter,
    candidates: Mapping[str, _Candidate],
) -> None:
    """Similarities of the candidates that only their words brought in."""
    missing = [id_ for id_, candidate in candidates.items() if "dense" not in candidate.scores]
    if missing and request.query_vector is not None:
        for hit in store.nearest(name, request.query_vector, len(missing), where, ids=missing):
            candidates[hit.id].scores["dense"] = hit.score


def _diversified(ordered: list[_Candidate], request: SearchRequest) -> list[_Candidate]:
    vectors = [c.found.vector for c in ordered if c.found.vector is not None]
    if not vectors or request.query_vector is None:
        return ordered
    chosen = maximal_marginal_relevance(
        request.query_vector, np.stack(vectors), request.top_k, 1.0 - request.diversity
    )
    return [ordered[index] for index in chosen]
