"""Where points lie: one protocol over every vector store, and the records that cross it.

Three implementations: `edge_store.py` (the embedded Qdrant engine, default), `server_store.py` (a Qdrant
server) and `exact_store.py` (in memory, exact: the oracle). One contract test runs over all of them.

A store knows points, filters and payload fields. It does not know documents, tenants or fusion: those are
`service.py`'s.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from cluster.errors import Conflict, DataError, NotFound
from retrieval.config import Distance
from retrieval.filters import FieldType, Filter

# The graph of both engines' collections (`m`, `ef_construct`) and how widely it is searched (`ef`), so that they answer
# alike; `cluster/capacity.py` counts with `m`. Recall@10 on 20,000 x 384 of intrinsic dimension 64: 0.999, where the
# embedded engine's own 16/100/100 has 0.937 and builds in two thirds of the time. On 100,000 of dimension 32 a search
# of 128 has 0.991, one of 200 has 0.999.
HNSW_M, HNSW_EF_CONSTRUCT, HNSW_EF = 24, 200, 160

# Payload fields that are filtered by, and so indexed in every collection. `metadata.<key>` joins them.
INDEXED_FIELDS: Mapping[str, FieldType] = {
    "tenant": FieldType.STRING,
    "document_id": FieldType.STRING,
    "position": FieldType.NUMBER,
}


@dataclass(frozen=True)
class SparseVector:
    """`indices[i]` has weight `values[i]`; every other coordinate is 0. Indices are unique."""

    indices: tuple[int, ...]
    values: tuple[float, ...]


@dataclass(frozen=True)
class CollectionSpec:
    """What a collection is made for. All of it must agree when it is opened again."""

    name: str
    dimension: int
    embedder: str
    fingerprint: str
    distance: Distance = Distance.COSINE

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> CollectionSpec:
        """What `dataclasses.asdict` made of one, written as JSON and read again."""
        return cls(**{**raw, "distance": Distance(raw["distance"])})


@dataclass(frozen=True)
class CollectionInfo:
    """A collection as it is: its spec, its metadata keys with their types, and how many points it holds."""

    spec: CollectionSpec
    fields: Mapping[str, FieldType]
    num_points: int


@dataclass(frozen=True)
class Point:
    """One chunk as it is stored. `id` is a UUID in canonical form; `dense` is [dimension], float32.

    Raises DataError for a vector of zeros or one with NaN or infinity: it has no direction, and a store would
    rank it arbitrarily.
    """

    id: str
    dense: np.ndarray
    sparse: SparseVector
    payload: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        norm = float(np.linalg.norm(self.dense))
        if not math.isfinite(norm) or norm == 0.0:
            where = f"chunk {self.payload.get('position')} of document {self.payload.get('document_id')!r}"
            raise DataError(
                f"{where} has a vector of zeros or without finite length; its embedder failed on this text",
                "vector",
            )


@dataclass(frozen=True)
class Scored:
    """A point that was found. `score` is a similarity: more is nearer, whatever the distance.

    cosine: -1 to 1. dot: the product. euclid: `euclid_similarity`. sparse: the BM25 score.
    """

    id: str
    score: float
    payload: Mapping[str, Any]
    vector: np.ndarray | None = None


class VectorStore(Protocol):
    """Collections of points.

    Every verb raises NotFound for a collection that does not exist and StoreUnavailable when the store does
    not answer. Writes are durable and searchable when the call returns.
    """

    def create(self, spec: CollectionSpec) -> None:
        """Make an empty collection with indexes on INDEXED_FIELDS.

        Raises Conflict when the name is taken; the collection that has it is given those indexes that it lacks.
        """

    def describe(self, name: str, *, recent: bool = False) -> CollectionInfo:
        """A collection as it is; with `recent` as it was some seconds ago, where it takes a request to know."""

    def names(self) -> list[str]:
        """Names of all collections, sorted; on a shared server none of those of other applications."""

    def drop(self, name: str) -> None:
        """Remove a collection and all its points."""

    def swap(self, name: str, replacement: str) -> None:
        """Exchange two collections: each name means what the other did, `name` from one moment to the next.

        What `name` was is there until `replacement` is dropped, or the process that holds the files ends.
        """

    def add_fields(self, name: str, fields: Mapping[str, FieldType]) -> None:
        """Index `metadata.<key>` for each key. Keys that are indexed already are left alone."""

    def upsert(self, name: str, points: Sequence[Point], fingerprint: str) -> None:
        """Write points; one with the same id is replaced. May be repeated after a failure.

        Raises Conflict when the vectors' embedder, by its fingerprint, is not the collection's: it may have been
        another before a `swap`.
        """

    def delete(self, name: str, where: Filter) -> int:
        """Remove the points that pass a filter; returns how many there were."""

    def nearest(
        self,
        name: str,
        query: np.ndarray | SparseVector,
        limit: int,
        where: Filter,
        with_vectors: bool = False,
        ids: Sequence[str] | None = None,
    ) -> list[Scored]:
        """The `limit` nearest points that pass the filter, best first, ties by id.

        `query` is [dimension] float32 for the dense vectors, or sparse for BM25. `ids` narrows the search to
        those points. A sparse query finds only points that share a word with it.
        """

    def scroll(
        self,
        name: str,
        where: Filter | None,
        limit: int,
        after: str | None = None,
        with_vectors: bool = False,
    ) -> list[Scored]:
        """Points that pass a filter (None: all) by id, from the first id above `after`; their score is 0."""

    def count(self, name: str, where: Filter) -> int: ...

    def optimize(self, name: str) -> None:
        """Build what makes searches fast, after many writes. Searches work meanwhile."""

    def close(self) -> None:
        """Let go of files and connections."""


def unknown_collection(name: str | None) -> NotFound:
    """The error of every store; it names none of the others, which may be those of other tenants."""
    return NotFound(
        f"no collection {name!r}; python -m retrieval list names those there are",
        "collection",
        "collection_not_found",
    )


def require_embedder(spec: CollectionSpec, fingerprint: str) -> None:
    """Raises Conflict for vectors that the collection's own cannot be compared with."""
    if fingerprint != spec.fingerprint:
        raise Conflict(
            f"collection {spec.name!r} is of embedder {spec.embedder} ({spec.fingerprint}), the vectors are of "
            f"another ({fingerprint}); use that embedder, or python -m retrieval migrate",
            "embedder",
            "embedder_mismatch",
        )


def euclid_similarity(distance: float) -> float:
    """The cosine of two vectors of length 1, as every embedder makes them, that lie this far apart.

    Thresholds are cosines, and mean the same on every collection with it.

    >>> euclid_similarity(0.0), euclid_similarity(1.0), euclid_similarity(2.0)
    (1.0, 0.5, -1.0)
    """
    return 1.0 - distance * distance / 2.0


def best_first(hits: Sequence[Scored]) -> list[Scored]:
    """By score, then by id, so that equal scores come in the same order from every store."""
    return sorted(hits, key=lambda hit: (-hit.score, hit.id))
