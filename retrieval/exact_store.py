"""Every point compared with every query, in memory: the oracle that the other stores are tested against.

Slow by design and exact by definition. Also a fine store for a test or a notebook.
"""

from __future__ import annotations

import math
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from cluster.errors import Conflict
from retrieval.config import Distance
from retrieval.filters import FieldType, Filter, matches
from retrieval.store import (
    CollectionInfo,
    CollectionSpec,
    Point,
    Scored,
    SparseVector,
    best_first,
    euclid_similarity,
    require_embedder,
    unknown_collection,
)


@dataclass
class _Collection:
    spec: CollectionSpec
    fields: dict[str, FieldType] = field(default_factory=dict)
    points: dict[str, Point] = field(default_factory=dict)


class ExactStore:
    """A `VectorStore` in a dictionary."""

    def __init__(self) -> None:
        self._collections: dict[str, _Collection] = {}
        self._lock = threading.RLock()

    def create(self, spec: CollectionSpec) -> None:
        with self._lock:
            if spec.name in self._collections:
                raise Conflict(f"collection {spec.name!r} exists already", "collection")
            self._collections[spec.name] = _Collection(spec)

    def describe(self, name: str, *, recent: bool = False) -> CollectionInfo:
        collection = self._get(name)
        return CollectionInfo(collection.spec, dict(collection.fields), len(collection.points))

    def names(self) -> list[str]:
        return sorted(self._collections)

    def drop(self, name: str) -> None:
        with self._lock:
            self._get(name)
            del self._collections[name]

    def swap(self, name: str, replacement: str) -> None:
        with self._lock:
            old, new = self._get(name), self._get(replacement)
            self._collections[name] = _Collection(replace(new.spec, name=name), new.fields, new.points)
            self._collections[replacement] = _Collection(
                replace(old.spec, name=replacement), old.fields, old.points
            )

    def add_fields(self, name: str, fields: Mapping[str, FieldType]) -> None:
        with self._lock:
            collection = self._get(name)
            collection.fields = {**fields, **collection.fields}

    def upsert(self, name: str, points: Sequence[Point], fingerprint: str) -> None:
        with self._lock:
            collection = self._get(name)
            require_embedder(collection.spec, fingerprint)
            collection.points.update({point.id: point for point in points})

    def delete(self, name: str, where: Filter) -> int:
        with self._lock:
            gone = self._matching(name, where)
            for point in gone:
                del self._collections[name].points[point.id]
            return len(gone)

    def nearest(
        self,
        name: str,
        query: np.ndarray | SparseVector,
        limit: int,
        where: Filter,
        with_vectors: bool = False,
        ids: Sequence[str] | None = None,
    ) -> list[Scored]:
        allowed = self._matching(name, where)
        if ids is not None:
            wanted = set(ids)
            allowed = [point for point in allowed if point.id in wanted]
        if isinstance(query, SparseVector):
            idf = _inverse_document_frequencies(query, list(self._get(name).points.values()))
            scores = [_overlap(point.sparse, idf) for point in allowed]
            found = [
                (point, score) for point, score in zip(allowed, scores, strict=True) if score is not None
            ]
        else:
            similarity = SIMILARITIES[self._get(name).spec.distance]
            found = [(point, similarity(query, point.dense)) for point in allowed]
        hits = [
            Scored(point.id, score, point.payload, point.dense if with_vectors else None)
            for point, score in found
        ]
        return best_first(hits)[:limit]

    def scroll(
        self,
        name: str,
        where: Filter | None,
        limit: int,
        after: str | None = None,
        with_vectors: bool = False,
    ) -> list[Scored]:
        found = sorted(self._matching(name, where), key=lambda point: point.id)
        later = [point for point in found if after is None or point.id > after]
        return [
            Scored(point.id, 0.0, point.payload, point.dense if with_vectors else None)
            for point in later[:limit]
        ]

    def count(self, name: str, where: Filter) -> int:
        return len(self._matching(name, where))

    def optimize(self, name: str) -> None:
        self._get(name)

    def close(self) -> None:
        self._collections.clear()

    def _get(self, name: str) -> _Collection:
        try:
            return self._collections[name]
        except KeyError:
            raise unknown_collection(name) from None

    def _matching(self, name: str, where: Filter | None) -> list[Point]:
        with self._lock:
            points = self._get(name).points.values()
            return [point for point in points if where is None or matches(where, point.payload)]


def _cosine(query: np.ndarray, vector: np.ndarray) -> float:
    return float(query @ vector / (np.linalg.norm(query) * np.linalg.norm(vector)))


def _dot(query: np.ndarray, vector: np.ndarray) -> float:
    return float(query @ vector)


def _nearness(query: np.ndarray, vector: np.ndarray) -> float:
    return euclid_similarity(float(np.linalg.norm(query - vector)))


SIMILARITIES = {Distance.COSINE: _cosine, Distance.DOT: _dot, Distance.EUCLID: _nearness}


def _inverse_document_frequencies(query: SparseVector, points: Sequence[Point]) -> dict[int, float]:
    """Weight of each index of a query: ln((N - n + 0.5) / (n + 0.5) + 1), n of N points having it."""
    num_points = len(points)
    having = Counter(index for point in points for index in point.sparse.indices)
    return {
        index: weight * math.log((num_points - having[index] + 0.5) / (having[index] + 0.5) + 1.0)
        for index, weight in zip(query.indices, query.values, strict=True)
    }


def _overlap(vector: SparseVector, weights: Mapping[int, float]) -> float | None:
    """Dot product over shared indices, or None when there are none."""
    shared = [
        value * weights[index]
        for index, value in zip(vector.indices, vector.values, strict=True)
        if index in weights
    ]
    return math.fsum(shared) if shared else None
