"""The embedded Qdrant engine: collections as folders of this machine, owned by one process.

    <root>/.lock                    held while a process has the collections open
    <root>/<name>/collection.json   the spec, the metadata fields and which shard folder counts
    <root>/<name>/shard-*/          the engine's own files

Only this file, `edge_filters.py` and `bm25.py` know the engine.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import threading
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import qdrant_edge as edge
from filelock import FileLock, Timeout

from cluster.errors import Conflict, HamletError, StoreUnavailable
from retrieval.config import Distance
from retrieval.edge_filters import field_path, to_edge, with_booleans, without_booleans
from retrieval.filters import FieldType, Filter
from retrieval.store import (
    HNSW_EF,
    HNSW_EF_CONSTRUCT,
    HNSW_M,
    INDEXED_FIELDS,
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

DENSE, SPARSE = "dense", "bm25"
DISTANCES = {
    Distance.COSINE: edge.Distance.Cosine,
    Distance.DOT: edge.Distance.Dot,
    Distance.EUCLID: edge.Distance.Euclid,
}
INDEX_TYPES = {
    FieldType.STRING: edge.PayloadSchemaType.Keyword,
    FieldType.NUMBER: edge.PayloadSchemaType.Float,
    FieldType.BOOLEAN: edge.PayloadSchemaType.Keyword,
}

# Below the threshold (in KiB of vectors) a full scan is faster than the graph.
HNSW = edge.HnswIndexConfig(m=HNSW_M, ef_construct=HNSW_EF_CONSTRUCT, full_scan_threshold=10_000)
SEARCH = edge.SearchParams(hnsw_ef=HNSW_EF)


@dataclass
class _Open:
    """A collection in use. `fields` is replaced, never changed, so that readers need no lock."""

    shard: edge.EdgeShard
    folder: Path
    spec: CollectionSpec
    fields: Mapping[str, FieldType]


class EdgeStore:
    """A `VectorStore` in a folder.

    Raises Conflict when another process has the folder open: the engine's files have one owner. Raises
    StoreUnavailable when nothing can be written to it.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        # The kernel releases it when the owner dies, however it dies: nothing is ever left locked.
        self._lock = FileLock(root / ".lock")
        try:
            root.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(timeout=0)
        except Timeout as exc:
            raise Conflict(
                f"another process has the collections in {root} open; start a cluster (python -m cluster up) "
                "and everything shares one owner, or use a Qdrant server (HAMLET_QDRANT_URL)",
                code="collections_in_use",
            ) from exc
        except OSError as exc:
            raise StoreUnavailable(
                f"cannot write to {root} ({exc.strerror}); set HAMLET_HOME to a folder of yours",
                "HAMLET_HOME",
            ) from exc
        self._open: dict[str, _Open] = {}
        self._opening = threading.RLock()
        _tidy(root)

    def create(self, spec: CollectionSpec) -> None:
        folder = self._root / spec.name
        if folder.exists():
            raise Conflict(f"collection {spec.name!r} exists already", "collection")
        with _translated():
            scratch = Path(tempfile.mkdtemp(prefix=".new-", dir=self._root))
            shard_folder = scratch / f"shard-{uuid.uuid4().hex[:8]}"
            shard = edge.EdgeShard.create(
                str(shard_folder),
                edge.EdgeConfig(
                    vectors={DENSE: edge.EdgeVectorParams(spec.dimension, DISTANCES[spec.distance])},
                    sparse_vectors={SPARSE: edge.EdgeSparseVectorParams(modifier=edge.Modifier.Idf)},
                    hnsw_config=HNSW,
                ),
            )
            for key, kind in INDEXED_FIELDS.items():
                shard.update(edge.UpdateOperation.create_field_index(key, INDEX_TYPES[kind]))
            shard.close()
            _write_description(scratch, shard_folder.name, spec, {})
        try:
            # One rename makes the collection visible, whole.
            scratch.rename(folder)
        except OSError as exc:
            shutil.rmtree(scratch)
            raise Conflict(f"collection {spec.name!r} exists already", "collection") from exc

    def describe(self, name: str, *, recent: bool = False) -> CollectionInfo:
        collection = self._get(name)
        with _translated():
            # Without a filter the engine's estimate is the number itself. Its exact count walks over all points, for as
            # long as a search takes, and every search describes its collection.
            num_points = collection.shard.count(edge.CountRequest(exact=False))
        return CollectionInfo(collection.spec, collection.fields, num_points)

    def names(self) -> list[str]:
        return sorted(path.parent.name for path in self._root.glob("*/collection.json"))

    def drop(self, name: str) -> None:
        # Looked up under the lock: of two that drop it, one finds nothing.
        with self._opening, _translated():
            dropped = self._get(name)
            # Renamed first: a crash half-way leaves a leftover, never half a collection.
            grave = Path(tempfile.mkdtemp(prefix=".new-", dir=self._root))
            dropped.shard.close()
            del self._open[name]
            (self._root / name).rename(grave / name)
            # After a swap the shard lies in the other collection's folder.
            if dropped.folder.exists():
                dropped.folder.rename(grave / "shard")
        shutil.rmtree(grave)

    def swap(self, name: str, replacement: str) -> None:
        with self._opening, _translated():
            old, new = self._get(name), self._get(replacement)
            new.shard.close()
            moved = self._root / name / new.folder.name
            new.folder.rename(moved)
            spec = replace(new.spec, name=name)
            # The moment: before it the old shard counts, after it the new one.
            _write_description(self._root / name, moved.name, spec, new.fields)
            self._open[name] = _Open(edge.EdgeShard.load(str(moved)), moved, spec, new.fields)
            # The old shard stays open where it is, since searches on it may be running. A process that opens the
            # collections later finds it unused, and the replacement without a shard: `_tidy` removes both.
            self._open[replacement] = replace(old, spec=replace(old.spec, name=replacement))

    def add_fields(self, name: str, fields: Mapping[str, FieldType]) -> None:
        # One writer of a description at a time: two would lose each other's fields.
        with self._opening, _translated():
            collection = self._get(name)
            new = {key: kind for key, kind in fields.items() if key not in collection.fields}
            if not new:
                return
            for key, kind in new.items():
                collection.shard.update(
                    edge.UpdateOperation.create_field_index(field_path(key, kind), INDEX_TYPES[kind])
                )
            collection.fields = {**collection.fields, **new}
            _write_description(self._root / name, collection.folder.name, collection.spec, collection.fields)

    def upsert(self, name: str, points: Sequence[Point], fingerprint: str) -> None:
        collection = self._get(name)
        require_embedder(collection.spec, fingerprint)
        with _translated():
            collection.shard.update(edge.UpdateOperation.upsert_points([_edge_point(p) for p in points]))
            # The engine's log would survive the process; only a flush survives the machine.
            collection.shard.flush()

    def delete(self, name: str, where: Filter) -> int:
        shard = self._get(name).shard
        with _translated():
            selector = to_edge(where)
            count = shard.count(edge.CountRequest(filter=selector))
            if count:
                shard.update(edge.UpdateOperation.delete_points_by_filter(selector))
                shard.flush()
            return count

    def nearest(
        self,
        name: str,
        query: np.ndarray | SparseVector,
        limit: int,
        where: Filter,
        with_vectors: bool = False,
        ids: Sequence[str] | None = None,
    ) -> list[Scored]:
        collection = self._get(name)
        if isinstance(query, SparseVector):
            vector = edge.SparseVector(list(query.indices), list(query.values))
            nearest = edge.Query.Nearest(vector, using=SPARSE)
        else:
            nearest = edge.Query.Nearest(query.tolist(), using=DENSE)
        selector = to_edge(where)
        if ids is not None:
            selector = edge.Filter(must=[selector, edge.HasIdCondition(set(ids))])
        with _translated():
            found = collection.shard.query(
                edge.QueryRequest(
                    limit=limit,
                    query=nearest,
                    filter=selector,
                    params=SEARCH,
                    with_payload=True,
                    with_vector=[DENSE] if with_vectors else False,
                )
            )
        is_euclid = not isinstance(query, SparseVector) and collection.spec.distance is Distance.EUCLID
        return best_first(
            [_scored(point, euclid_similarity(point.score) if is_euclid else point.score) for point in found]
        )

    def scroll(
        self,
        name: str,
        where: Filter | None,
        limit: int,
        after: str | None = None,
        with_vectors: bool = False,
    ) -> list[Scored]:
        request = edge.ScrollRequest(
            # The engine's offset is the first id to return, ours the last one seen.
            offset=after,
            limit=limit + 1,
            filter=to_edge(where) if where is not None else None,
            with_payload=True,
            with_vector=[DENSE] if with_vectors else False,
        )
        with _translated():
            records, _ = self._get(name).shard.scroll(request)
        found = [_scored(record, 0.0) for record in records]
        return [record for record in found if record.id != after][:limit]

    def count(self, name: str, where: Filter) -> int:
        with _translated():
            return self._get(name).shard.count(edge.CountRequest(filter=to_edge(where)))

    def optimize(self, name: str) -> None:
        with _translated():
            self._get(name).shard.optimize()

    def close(self) -> None:
        with self._opening:
            for collection in self._open.values():
                collection.shard.close()
            self._open.clear()
        self._lock.release()

    def _get(self, name: str) -> _Open:
        """The collection, opened on first use (0.05 s for a small one)."""
        opened = self._open.get(name)
        if opened is not None:
            return opened
        names = self.names()
        # Compared, never joined to a path: `c/../c` would open c under a second name and lock it for good.
        if name not in names:
            raise unknown_collection(name)
        with self._opening, _translated():
            if name not in self._open:
                shard_folder, spec, fields = _read_description(self._root / name)
                shard = edge.EdgeShard.load(str(shard_folder))
                self._open[name] = _Open(shard, shard_folder, spec, fields)
            return self._open[name]


def _tidy(root: Path) -> None:
    """Remove what a process left that died while it made, swapped or dropped a collection."""
    for leftover in root.glob(".new-*"):
        shutil.rmtree(leftover)
    for description in root.glob("*/collection.json"):
        folder = description.parent
        shard_folder, _, _ = _read_description(folder)
        if not shard_folder.is_dir():
            shutil.rmtree(folder)
            continue
        for unused in set(folder.glob("shard-*")) - {shard_folder}:
            shutil.rmtree(unused)


@contextmanager
def _translated() -> Iterator[None]:
    """The engine raises bare `Exception`; this is the fence where it becomes ours."""
    try:
        yield
    except HamletError:
        raise
    except Exception as exc:
        raise StoreUnavailable(f"the embedded vector store failed: {exc}") from exc


def _edge_point(point: Point) -> edge.Point:
    vectors = {
        DENSE: point.dense.tolist(),
        SPARSE: edge.SparseVector(list(point.sparse.indices), list(point.sparse.values)),
    }
    return edge.Point(point.id, vectors, with_booleans(point.payload))


def _scored(point: Any, score: float) -> Scored:
    vector = np.asarray(point.vector[DENSE], dtype=np.float32) if point.vector else None
    return Scored(str(point.id), score, without_booleans(point.payload), vector)


def _write_description(
    folder: Path, shard: str, spec: CollectionSpec, fields: Mapping[str, FieldType]
) -> None:
    scratch = folder / "collection.json.new"
    with scratch.open("w") as file:
        json.dump({"shard": shard, "spec": asdict(spec), "fields": dict(fields)}, file, indent=2)
        file.flush()
        os.fsync(file.fileno())  # else the machine may go down between the name and what is in the file
    scratch.replace(folder / "collection.json")


def _read_description(folder: Path) -> tuple[Path, CollectionSpec, dict[str, FieldType]]:
    raw = json.loads((folder / "collection.json").read_text())
    fields = {key: FieldType(kind) for key, kind in raw["fields"].items()}
    return folder / raw["shard"], CollectionSpec.from_json(raw["spec"]), fields
