"""Collections of documents over a vector store: their verbs, and tenancy.

Runs in the process that owns the store. Other processes use it through `owner.py`, by the same verbs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress

from cluster.errors import Conflict, DataError, InvalidInput, NotFound
from cluster.tenants import DEFAULT_TENANT
from retrieval.documents import MetadataValue
from retrieval.filters import And, Filter, Or, at_least, equals, one_of
from retrieval.points import (
    DocumentRecord,
    Hit,
    joined_fields,
    make_hit,
    make_record,
    redescribed,
    unfinished,
)
from retrieval.search import SearchRequest, SearchResult, search
from retrieval.store import CollectionInfo, CollectionSpec, Point, Scored, VectorStore, require_embedder

SCROLL_PAGE = 1000


class Collections:
    """The verbs of retrieval. `tenant` is set by the server, from whom it knows to be calling.

    Every verb raises NotFound for an unknown collection and StoreUnavailable when the store does not answer.
    """

    def __init__(self, store: VectorStore) -> None:
        self._store = store

    def ensure(self, spec: CollectionSpec) -> CollectionInfo:
        """The collection, made when it is missing.

        Raises Conflict naming both sides when it was made for another embedder, dimension or distance.
        """
        try:
            self._store.create(spec)
        except Conflict:
            _require_same_spec(self._store.describe(spec.name).spec, spec)
        return self._store.describe(spec.name)

    def collection_names(self) -> list[str]:
        return self._store.names()

    def list_collections(self) -> list[CollectionInfo]:
        found = []
        for name in self._store.names():
            with suppress(NotFound):  # dropped since it was listed
                found.append(self._store.describe(name))
        return found

    def describe(self, collection: str) -> CollectionInfo:
        return self._store.describe(collection)

    def drop(self, collection: str) -> None:
        self._store.drop(collection)

    def upsert(self, collection: str, points: Sequence[Point], fingerprint: str) -> None:
        """Write points; durable and searchable on return. `fingerprint` is that of their embedder.

        Raises DataError for a vector of another size, or a metadata value of another type than the key has, and
        Conflict when the collection is, or has become, one of another embedder.
        """
        info = self._store.describe(collection)
        require_embedder(info.spec, fingerprint)
        fields = info.fields
        for point in points:
            if point.dense.shape != (info.spec.dimension,):
                raise DataError(
                    f"a vector of {point.dense.shape} for collection {collection!r} of {info.spec.dimension}"
                )
            payload = point.payload
            fields = joined_fields(fields, payload.get("document_id", point.id), payload.get("metadata", {}))
        if len(fields) > len(info.fields):
            self._store.add_fields(collection, fields)
        self._store.upsert(collection, points, fingerprint)

    def delete_documents(
        self, collection: str, document_ids: Sequence[str], tenant: str = DEFAULT_TENANT
    ) -> int:
        """Remove documents; returns how many chunks there were. Unknown ids count nothing.

        Raises InvalidInput for an empty list, so that no mistake can mean "all".
        """
        if not document_ids or not all(document_ids):
            raise InvalidInput("name at least one document to delete, none of them empty", "document_ids")
        return self._store.delete(
            collection, And((equals("tenant", tenant), one_of("document_id", document_ids)))
        )

    def delete_chunks_from(
        self, collection: str, positions: Mapping[str, int], tenant: str = DEFAULT_TENANT
    ) -> int:
        """Remove the chunks of each document from its position on: what is left over when they became shorter."""
        tails = tuple(
            And((equals("document_id", document_id), at_least("position", position)))
            for document_id, position in positions.items()
        )
        return self._store.delete(collection, And((equals("tenant", tenant), Or(tails)))) if tails else 0

    def mark_unfinished(self, collection: str, document_id: str, tenant: str = DEFAULT_TENANT) -> None:
        """Let a document be one that ingestion writes anew, whatever it holds. Searches find it as it is."""
        fingerprint = self._store.describe(collection).spec.fingerprint
        first = And((_of(tenant, document_id), equals("position", 0)))
        found = self._store.scroll(collection, first, 1, with_vectors=True)
        self._store.upsert(collection, [unfinished(stored) for stored in found], fingerprint)

    def documents(self, collection: str, tenant: str = DEFAULT_TENANT) -> list[DocumentRecord]:
        """Every document of a tenant that is wholly indexed, or was before an update that is not finished; by id."""
        found = self._scrolled(collection, _first_chunks(tenant))
        records = [make_record(stored.payload) for stored in found]
        return sorted(records, key=lambda record: record.document_id)

    def document_ids(self, collection: str, tenant: str = DEFAULT_TENANT) -> list[str]:
        """Every document of which anything is there, also one whose first writing broke off; sorted."""
        # Position 1 is the first to be written, and position 0 stays once it is there.
        opening = And((equals("tenant", tenant), one_of("position", (0, 1))))
        return sorted({stored.payload["document_id"] for stored in self._scrolled(collection, opening)})

    def document(
        self, collection: str, document_id: str, tenant: str = DEFAULT_TENANT
    ) -> DocumentRecord | None:
        """One document, if it is wholly indexed, or was before an update that is not finished."""
        found = self._store.scroll(collection, And((_of(tenant, document_id), equals("position", 0))), 1)
        return make_record(found[0].payload) if found else None

    def chunks(self, collection: str, document_id: str, tenant: str = DEFAULT_TENANT) -> list[Hit]:
        """Every chunk of a document, in reading order; their score is 0."""
        found = self._scrolled(collection, _of(tenant, document_id))
        hits = [make_hit(collection, stored, 0.0, {}) for stored in found]
        return sorted(hits, key=lambda hit: hit.position)

    def set_metadata(
        self,
        collection: str,
        document_id: str,
        metadata: Mapping[str, MetadataValue],
        tenant: str = DEFAULT_TENANT,
    ) -> int:
        """Give a document other metadata without embedding it again; returns how many chunks it has.

        Raises as `upsert`. Ingesting the document afterwards writes it anew, whatever it holds.
        """
        info = self._store.describe(collection)
        joined_fields(info.fields, document_id, metadata)  # what is refused must leave the document as it is
        found = list(self._scrolled(collection, _of(tenant, document_id), with_vectors=True))
        # Position 0 last, as in ingestion: with it the document has its new metadata as a whole.
        found.sort(key=lambda stored: -stored.payload["position"])
        self.mark_unfinished(collection, document_id, tenant)
        self.upsert(collection, [redescribed(stored, metadata) for stored in found], info.spec.fingerprint)
        return len(found)

    def count(self, collection: str, tenant: str = DEFAULT_TENANT) -> int:
        """Chunks of a tenant."""
        return self._store.count(collection, equals("tenant", tenant))

    def count_documents(self, collection: str, tenant: str = DEFAULT_TENANT) -> int:
        """Documents of a tenant that are wholly indexed."""
        return self._store.count(collection, _first_chunks(tenant))

    def optimize(self, collection: str) -> None:
        """Build the search index after many writes. Searches work meanwhile."""
        self._store.optimize(collection)

    def search(self, collection: str, request: SearchRequest, tenant: str = DEFAULT_TENANT) -> SearchResult:
        """The chunks of a tenant that answer a question best; errors as `search.search`."""
        try:
            # A search should not wait for a description, which hardly ever changes.
            return search(self._store, self._store.describe(collection, recent=True), request, tenant)
        except (Conflict, InvalidInput):
            # Another process may just have brought the key of a filter, or moved the collection to this embedder.
            return search(self._store, self._store.describe(collection), request, tenant)

    def page(self, collection: str, limit: int, after: str | None = None) -> list[Scored]:
        """Chunks of all tenants with their vectors, by id: for backup and migration, not for requests."""
        return self._store.scroll(collection, None, limit, after, with_vectors=True)

    def swap(self, collection: str, replacement: str) -> None:
        """Exchange two collections, from one moment to the next; drop the replacement when it is of no more use."""
        self._store.swap(collection, replacement)

    def close(self) -> None:
        self._store.close()

    def _scrolled(self, collection: str, where: Filter, with_vectors: bool = False) -> Iterator[Scored]:
        after: str | None = None
        while page := self._store.scroll(collection, where, SCROLL_PAGE, after, with_vectors):
            yield from page
            after = page[-1].id


def _first_chunks(tenant: str) -> Filter:
    """One chunk of each document, which is written last."""
    return And((equals("tenant", tenant), equals("position", 0)))


def _of(tenant: str, document_id: str) -> Filter:
    return And((equals("tenant", tenant), equals("document_id", document_id)))


def _require_same_spec(existing: CollectionSpec, wanted: CollectionSpec) -> None:
    if existing == wanted:
        return
    if existing.fingerprint == wanted.fingerprint and existing.dimension == wanted.dimension:
        if existing.distance is wanted.distance:
            return  # the same model by another name
        raise Conflict(
            f"collection {existing.name!r} uses {existing.distance} distance, not {wanted.distance}; "
            "choose another collection name",
            "distance",
        )
    raise Conflict(
        f"collection {existing.name!r} was made by {existing.embedder} ({existing.dimension} numbers, "
        f"fingerprint {existing.fingerprint}), not by {wanted.embedder} ({wanted.dimension}, "
        f"{wanted.fingerprint}); use that embedder, another collection, or python -m retrieval migrate",
        "embedder",
        "embedder_mismatch",
    )
