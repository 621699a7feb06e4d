"""Collections on a Qdrant server, for what one machine cannot hold.

A collection is an alias for one with a drawn name, so that another can take its place at once. Its spec and
its metadata fields are kept in the collection's own metadata on the server. Only the `server_*` files know
qdrant_client.
"""

from __future__ import annotations

import re
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import grpc
import numpy as np
from qdrant_client import QdrantClient, models
from qdrant_client.http.exceptions import UnexpectedResponse

from cluster.errors import Conflict, StoreUnavailable
from cluster.settings import Settings
from retrieval.batches import bounded_batches
from retrieval.config import Distance
from retrieval.filters import FieldType, Filter
from retrieval.server_calls import ServerCalls
from retrieval.server_filters import to_server
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
    Distance.COSINE: models.Distance.COSINE,
    Distance.DOT: models.Distance.DOT,
    Distance.EUCLID: models.Distance.EUCLID,
}
INDEX_TYPES = {
    FieldType.STRING: models.PayloadSchemaType.KEYWORD,
    FieldType.NUMBER: models.PayloadSchemaType.FLOAT,
    FieldType.BOOLEAN: models.PayloadSchemaType.BOOL,
}
HNSW = models.HnswConfigDiff(m=HNSW_M, ef_construct=HNSW_EF_CONSTRUCT)
SEARCH = models.SearchParams(hnsw_ef=HNSW_EF)

# Keys of the collection's metadata. One key per field, so that two writers cannot undo each other's.
SPEC_KEY, FIELD_PREFIX = "hamlet", "field:"

# How old a recent description may be.
RECENT_S = 10.0
# A name of ours that stands behind an alias.
DRAWN_NAME = re.compile(r".+\.[0-9a-f]{8}")
# Of one request.
TIMEOUT_S = 30


@dataclass(frozen=True)
class Layout:
    """How new collections are laid out on the server; existing ones keep theirs. None: the server's default.

    `quantize`: 8-bit copies of the vectors are searched in memory and the originals rescore; `on_disk`:
    the originals stay on disk.
    """

    num_shards: int | None = None
    num_replicas: int | None = None
    quantize: bool = False
    on_disk: bool = False


class ServerStore:
    """A `VectorStore` on a Qdrant server; `client` may also be qdrant-client's in-memory mode."""

    def __init__(
        self,
        client: QdrantClient,
        layout: Layout | None = None,
        calls: ServerCalls | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._layout = layout or Layout()
        self._call = calls or ServerCalls()
        self._clock = clock
        self._described: dict[str, tuple[float, CollectionInfo]] = {}
        self._lock = threading.Lock()

    @classmethod
    def from_settings(cls, config: Settings) -> ServerStore:
        """Connect to HAMLET_QDRANT_URL. Nothing is sent until the first verb."""
        client = QdrantClient(
            url=config.qdrant_url,
            api_key=config.qdrant_api_key,
            timeout=TIMEOUT_S,
            prefer_grpc=config.qdrant_grpc_port is not None,
            grpc_port=config.qdrant_grpc_port or 6334,
            check_compatibility=False,
        )
        layout = Layout(
            config.qdrant_shards, config.qdrant_replicas, config.qdrant_quantize, config.qdrant_on_disk
        )
        return cls(client, layout)

    def create(self, spec: CollectionSpec) -> None:
        self._require_free(spec.name)
        target = f"{spec.name}.{uuid.uuid4().hex[:8]}"
        self._call(target, lambda: self._create(target, spec))
        self._index_missing(target)
        try:
            # Another process may have made it meanwhile, and what is written to that one must not lose its name.
            self._require_free(spec.name)
        except Conflict:
            self._call(target, lambda: self._client.delete_collection(target))
            raise
        # The name appears last, on a collection that has everything.
        self._alias(spec.name, [_create_alias(spec.name, target)])

    def describe(self, name: str, *, recent: bool = False) -> CollectionInfo:
        if recent:
            with self._lock:
                known = self._described.get(name)
            if known is not None and known[0] > self._clock():
                return known[1]
        info = _described(name, self._call(name, lambda: self._client.get_collection(name)))
        with self._lock:
            self._described[name] = (self._clock() + RECENT_S, info)
        return info

    def names(self) -> list[str]:
        return sorted(name for name, target in self._aliases().items() if DRAWN_NAME.fullmatch(target))

    def drop(self, name: str) -> None:
        target = self._target(name)
        self._alias(name, [_delete_alias(name)])
        self._call(target, lambda: self._client.delete_collection(target))

    def swap(self, name: str, replacement: str) -> None:
        old, new = self._target(name), self._target(replacement)
        self._alias(
            name,
            [
                _delete_alias(name),
                _create_alias(name, new),
                _delete_alias(replacement),
                _create_alias(replacement, old),
            ],
        )

    def add_fields(self, name: str, fields: Mapping[str, FieldType]) -> None:
        known = self.describe(name).fields
        new = {key: kind for key, kind in fields.items() if key not in known}
        if not new:
            return
        target = self._target(name)
        for key, kind in new.items():
            self._index(target, f"metadata.{key}", kind)
        metadata = {FIELD_PREFIX + key: kind.value for key, kind in new.items()}
        self._call(target, lambda: self._client.update_collection(target, metadata=metadata))

    def upsert(self, name: str, points: Sequence[Point], fingerprint: str) -> None:
        require_embedder(self.describe(name).spec, fingerprint)
        num_written = 0
        for batch in bounded_batches(points):
            structs = [_point_struct(point) for point in batch]
            try:
                self._call(name, partial(self._client.upsert, name, structs, wait=True))
            except StoreUnavailable as exc:
                raise StoreUnavailable(
                    f"{exc.message} ({num_written} of {len(points)} chunks were written; the same call may be "
                    "repeated)",
                    retry_after_s=exc.retry_after_s,
                ) from exc
            num_written += len(batch)

    def delete(self, name: str, where: Filter) -> int:
        selector = to_server(where)
        count = self._count(name, selector)
        if count:
            by_filter = models.FilterSelector(filter=selector)
            self._call(name, lambda: self._client.delete(name, by_filter, wait=True))
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
        is_sparse = isinstance(query, SparseVector)
        selector = to_server(where)
        if ids is not None:
            selector = models.Filter(must=[selector, models.HasIdCondition(has_id=list(ids))])
        found = self._call(
            name,
            lambda: self._client.query_points(
                name,
                query=_sparse(query) if isinstance(query, SparseVector) else query.tolist(),
                using=SPARSE if is_sparse else DENSE,
                query_filter=selector,
                search_params=SEARCH,
                limit=limit,
                with_payload=True,
                with_vectors=[DENSE] if with_vectors else False,
            ),
        ).points
        is_euclid = not is_sparse and self.describe(name, recent=True).spec.distance is Distance.EUCLID
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
        records, _ = self._call(
            name,
            lambda: self._client.scroll(
                name,
                scroll_filter=to_server(where) if where is not None else None,
                # The server's offset is the first id to return, ours the last one seen.
                limit=limit + 1,
                offset=after,
                with_payload=True,
                with_vectors=[DENSE] if with_vectors else False,
            ),
        )
        found = [_scored(record, 0.0) for record in records]
        return [record for record in found if record.id != after][:limit]

    def count(self, name: str, where: Filter) -> int:
        return self._count(name, to_server(where))

    def optimize(self, name: str) -> None:
        """The server optimizes by itself."""
        self.describe(name)

    def close(self) -> None:
        self._client.close()

    def _require_free(self, name: str) -> None:
        """Raises Conflict for a name that is taken; a collection of ours that has it is given the indexes it lacks."""
        taken = self._aliases().get(name)
        if taken is not None:
            if DRAWN_NAME.fullmatch(taken):
                self._index_missing(taken)
            raise Conflict(f"collection {name!r} exists already", "collection")

    def _create(self, target: str, spec: CollectionSpec) -> None:
        try:
            self._client.create_collection(
                target,
                vectors_config={
                    DENSE: models.VectorParams(
                        size=spec.dimension, distance=DISTANCES[spec.distance], on_disk=self._layout.on_disk
                    )
                },
                sparse_vectors_config={SPARSE: models.SparseVectorParams(modifier=models.Modifier.IDF)},
                hnsw_config=HNSW,
                shard_number=self._layout.num_shards,
                replication_factor=self._layout.num_replicas,
                quantization_config=_quantization() if self._layout.quantize else None,
                metadata={SPEC_KEY: {key: value for key, value in asdict(spec).items() if key != "name"}},
            )
        except (UnexpectedResponse, grpc.RpcError) as exc:
            # The name is drawn: what exists was made by an attempt whose answer was lost.
            told = exc.content.decode() if isinstance(exc, UnexpectedResponse) else exc.details()
            if "already exists" not in told:
                raise

    def _count(self, name: str, selector: models.Filter) -> int:
        return int(self._call(name, lambda: self._client.count(name, selector, exact=True)).count)

    def _index_missing(self, target: str) -> None:
        indexed = self._call(target, lambda: self._client.get_collection(target)).payload_schema
        for key, kind in INDEXED_FIELDS.items():
            if key not in indexed:
                self._index(target, key, kind)

    def _index(self, target: str, path: str, kind: FieldType) -> None:
        schema = INDEX_TYPES[kind]
        self._call(target, lambda: self._client.create_payload_index(target, path, field_schema=schema))

    def _aliases(self) -> dict[str, str]:
        found = self._call(None, self._client.get_aliases).aliases
        return {alias.alias_name: alias.collection_name for alias in found}

    def _target(self, name: str) -> str:
        """The collection behind a name."""
        self.describe(name)
        # It may have been dropped since it was described, or be no name of ours.
        aliases = self._aliases()
        if name not in aliases:
            raise unknown_collection(name)
        return aliases[name]

    def _alias(self, name: str, operations: list[Any]) -> None:
        self._call(name, lambda: self._client.update_collection_aliases(operations))
        with self._lock:
            self._described.clear()


def _described(name: str, found: models.CollectionInfo) -> CollectionInfo:
    metadata = found.config.metadata or {}
    if SPEC_KEY not in metadata:
        raise Conflict(f"collection {name!r} on the server was not made by Hamlet", "collection")
    spec = CollectionSpec.from_json({**metadata[SPEC_KEY], "name": name})
    fields = {
        key.removeprefix(FIELD_PREFIX): FieldType(kind)
        for key, kind in metadata.items()
        if key.startswith(FIELD_PREFIX)
    }
    return CollectionInfo(spec, fields, found.points_count or 0)


def _quantization() -> models.ScalarQuantization:
    return models.ScalarQuantization(
        scalar=models.ScalarQuantizationConfig(type=models.ScalarType.INT8, always_ram=True)
    )


def _create_alias(name: str, target: str) -> models.CreateAliasOperation:
    return models.CreateAliasOperation(
        create_alias=models.CreateAlias(collection_name=target, alias_name=name)
    )


def _delete_alias(name: str) -> models.DeleteAliasOperation:
    return models.DeleteAliasOperation(delete_alias=models.DeleteAlias(alias_name=name))


def _point_struct(point: Point) -> models.PointStruct:
    return models.PointStruct(
        id=point.id,
        vector={DENSE: point.dense.tolist(), SPARSE: _sparse(point.sparse)},
        payload=dict(point.payload),
    )


def _sparse(vector: SparseVector) -> models.SparseVector:
    return models.SparseVector(indices=list(vector.indices), values=list(vector.values))


def _scored(point: Any, score: float) -> Scored:
    vector = np.asarray(point.vector[DENSE], dtype=np.float32) if point.vector else None
    return Scored(str(point.id), score, point.payload or {}, vector)
