"""Moving a collection to another embedder, while it is being searched.

The chunks are embedded again beside the old collection, which then gives way at once. A run that was
interrupted goes on where it ended; documents that change meanwhile are caught up with before the change-over.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from cluster.errors import Conflict, NotFound
from retrieval.client import CollectionsClient
from retrieval.points import remade_point, stored_text
from retrieval.store import CollectionSpec, Scored
from retrieval.vectorizer import TextEmbedder

PAGE_CHUNKS = 256

# A collection that is written faster than it can be embedded again would be caught up with for ever.
MAX_PASSES = 10


def migrate(
    collections: CollectionsClient,
    collection: str,
    embedder: TextEmbedder,
    on_chunks: Callable[[int], None] = lambda _: None,
) -> int:
    """Make `collection` one of `embedder`; returns how many chunks were embedded.

    Raises ContextLengthExceeded when a chunk is too long for the new embedder (ingest the documents into a new
    collection then), and Conflict when the collection does not come to rest.
    """
    old = collections.describe(collection).spec
    if old.fingerprint == embedder.fingerprint:
        return 0
    new = replace(
        old,
        name=f"{collection}-migrating",
        dimension=embedder.dimension,
        embedder=embedder.name,
        fingerprint=embedder.fingerprint,
    )
    _prepare(collections, new)
    num_embedded = 0
    is_optimized = False
    for _ in range(MAX_PASSES):
        num_changed = _pass(collections, collection, new.name, embedder, on_chunks)
        num_embedded += num_changed
        if num_changed:
            continue
        if is_optimized:
            collections.swap(collection, new.name)
            return num_embedded
        # It takes long where there is much: what is written meanwhile is found by one more pass.
        collections.optimize(new.name)
        is_optimized = True
    raise Conflict(f"{collection!r} keeps changing; stop ingesting into it and run the same command again")


def _prepare(collections: CollectionsClient, new: CollectionSpec) -> None:
    """The collection to fill: an interrupted one of the same embedder, else an empty one."""
    try:
        if collections.describe(new.name).spec != new:
            collections.drop(new.name)
    except NotFound:
        pass
    collections.ensure(new)


def _pass(
    collections: CollectionsClient,
    source: str,
    target: str,
    embedder: TextEmbedder,
    on_chunks: Callable[[int], None],
) -> int:
    """Bring the target nearer to the source; returns how many chunks differed."""
    done = {chunk.id: _state(chunk) for page in pages(collections, target) for chunk in page}
    seen: set[str] = set()
    num_changed = 0
    for page in pages(collections, source):
        seen.update(chunk.id for chunk in page)
        missing = [chunk for chunk in page if done.get(chunk.id) != _state(chunk)]
        if missing:
            dense = embedder.embed_documents([stored_text(chunk) for chunk in missing])
            collections.upsert(
                target, [remade_point(chunk, vector) for chunk, vector in zip(missing, dense, strict=True)]
            )
        num_changed += len(missing)
        on_chunks(len(page))
    # A document that lost a chunk is removed whole; the next pass brings back what is left of it.
    gone = {(tenant, document) for id_, (tenant, document, _) in done.items() if id_ not in seen}
    for tenant, document in gone:
        collections.delete_documents(target, [document], tenant)
    return num_changed + len(gone)


def pages(collections: CollectionsClient, collection: str) -> Iterator[list[Scored]]:
    """All chunks of a collection, page by page."""
    after: str | None = None
    while page := collections.page(collection, PAGE_CHUNKS, after):
        yield page
        after = page[-1].id


def _state(chunk: Scored) -> tuple[str, str, str]:
    return chunk.payload["tenant"], chunk.payload["document_id"], chunk.payload["content_sha256"]
