"""Moving a collection to another embedder, while it is being searched.

The chunks are embedded again beside the old collection, which then gives way at once. A run that was
interrupted goes on where it ended; documents that change meanwhile are caught up with before the change-over,
and what changed just before it from the old collection, which is removed last.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeAlias

import numpy as np

from cluster.errors import Conflict, NotFound
from retrieval.client import CollectionsClient
from retrieval.points import remade_point, stored_text
from retrieval.store import CollectionSpec, Scored
from retrieval.vectorizer import TextEmbedder

PAGE_CHUNKS = 256

# A collection that is written faster than it can be embedded again would be caught up with for ever.
MAX_PASSES = 10

Vectors: TypeAlias = Callable[[Sequence[Scored]], Sequence[np.ndarray]]
# Writes chunks into the collection of that name, with vectors of the new embedder.
Copy: TypeAlias = Callable[[str, Sequence[Scored]], None]


@dataclass(frozen=True, slots=True)
class _State:
    """A chunk as it was met. `document` is its tenant and id."""

    document: tuple[str, str]
    payload_sha256: bytes


def _untold(num_chunks: int) -> None:
    """What is done with the number of chunks when nobody is to be told it."""


def migrate(
    collections: CollectionsClient,
    collection: str,
    embedder: TextEmbedder,
    on_chunks: Callable[[int], None] = _untold,
) -> int:
    """Make `collection` one of `embedder`; returns how many chunks were embedded.

    None are when the embedder is the same model by another name: the vectors are kept.
    Raises ContextLengthExceeded when a chunk is too long for the new embedder (ingest the documents into a new
    collection then), and Conflict when the collection does not come to rest.
    `on_chunks` is called with the number of chunks that were dealt with, once for each.
    """
    old = collections.describe(collection).spec
    is_same_model = old.fingerprint == embedder.fingerprint
    if is_same_model and old.embedder == embedder.name:
        return 0
    vectors_of = _kept if is_same_model else partial(_embedded, embedder)
    copy = partial(_copy, collections, vectors_of, embedder.fingerprint)
    new = replace(
        old,
        name=f"{collection}-migrating",
        dimension=embedder.dimension,
        embedder=embedder.name,
        fingerprint=embedder.fingerprint,
    )
    _prepare(collections, new)
    num_copied = 0
    is_optimized = False
    for _ in range(MAX_PASSES):
        num_changed, seen = _pass(collections, collection, new.name, copy, on_chunks)
        on_chunks = _untold  # later passes go over the same chunks
        num_copied += num_changed
        if num_changed:
            continue
        if is_optimized:
            collections.swap(collection, new.name)
            num_copied += _catch_up(collections, new.name, collection, copy, seen)
            collections.drop(new.name)
            return 0 if is_same_model else num_copied
        # It takes long where there is much: what is written meanwhile is found by one more pass.
        collections.optimize(new.name)
        is_optimized = True
    raise Conflict(f"{collection!r} keeps changing; stop ingesting into it and run the same command again")


def _prepare(collections: CollectionsClient, new: CollectionSpec) -> None:
    """The collection to fill: an interrupted one of the same embedder, else an empty one."""
    with suppress(NotFound):
        if collections.describe(new.name).spec != new:
            collections.drop(new.name)
    collections.ensure(new)


def _pass(
    collections: CollectionsClient,
    source: str,
    target: str,
    copy: Copy,
    on_chunks: Callable[[int], None],
) -> tuple[int, dict[str, _State]]:
    """Bring the target nearer to the source; returns how many chunks differed, and what the source held."""
    done = {chunk.id: _state(chunk) for page in pages(collections, target) for chunk in page}
    seen: dict[str, _State] = {}
    num_changed = 0
    for page in pages(collections, source):
        states = {chunk.id: _state(chunk) for chunk in page}
        seen |= states
        missing = [chunk for chunk in page if done.get(chunk.id) != states[chunk.id]]
        copy(target, missing)
        num_changed += len(missing)
        on_chunks(len(page))
    # A document that lost a chunk is removed whole; the next pass brings back what is left of it.
    gone = {state.document for id_, state in done.items() if id_ not in seen}
    for tenant, document in gone:
        collections.delete_documents(target, [document], tenant)
    return num_changed + len(gone), seen


def _catch_up(
    collections: CollectionsClient,
    source: str,
    target: str,
    copy: Copy,
    seen: dict[str, _State],
) -> int:
    """Bring over the documents that changed between the last pass and the change-over; returns their chunks.

    They are told by what that pass has `seen` and not by what the target holds, which is in use by now.
    """
    changed: set[tuple[str, str]] = set()
    for page in pages(collections, source):
        states = {chunk.id: _state(chunk) for chunk in page}
        changed |= {state.document for id_, state in states.items() if seen.pop(id_, None) != state}
    changed |= {state.document for state in seen.values()}
    for tenant, document in changed:
        collections.delete_documents(target, [document], tenant)
    num_copied = 0
    for page in pages(collections, source) if changed else ():
        late = [chunk for chunk in page if _document(chunk) in changed]
        copy(target, late)
        num_copied += len(late)
    return num_copied


def _copy(
    collections: CollectionsClient,
    vectors_of: Vectors,
    fingerprint: str,
    target: str,
    chunks: Sequence[Scored],
) -> None:
    if chunks:
        pairs = zip(chunks, vectors_of(chunks), strict=True)
        collections.upsert(target, [remade_point(chunk, vector) for chunk, vector in pairs], fingerprint)


def _embedded(embedder: TextEmbedder, chunks: Sequence[Scored]) -> Sequence[np.ndarray]:
    return list(embedder.embed_documents([stored_text(chunk) for chunk in chunks]))


def _kept(chunks: Sequence[Scored]) -> Sequence[np.ndarray]:
    return [chunk.vector for chunk in chunks if chunk.vector is not None]


def pages(collections: CollectionsClient, collection: str) -> Iterator[list[Scored]]:
    """All chunks of a collection, page by page."""
    after: str | None = None
    while page := collections.page(collection, PAGE_CHUNKS, after):
        yield page
        after = page[-1].id


def _state(chunk: Scored) -> _State:
    # All of the payload: a document that was cut anew has its old content, and other chunks at the same positions.
    payload = json.dumps(dict(chunk.payload), sort_keys=True)
    return _State(_document(chunk), hashlib.sha256(payload.encode()).digest())


def _document(chunk: Scored) -> tuple[str, str]:
    return chunk.payload["tenant"], chunk.payload["document_id"]
