"""Chunks to points and points to hits: ids and the payload, the form in which a chunk is stored.

Ids are derived from tenant, document and position, never from the text: the same document written twice
gives the same points, and two equal pages of one document stay two.
"""

from __future__ import annotations

import hashlib
import json
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cluster.errors import DataError
from retrieval.bm25 import weigh_document
from retrieval.chunks import Chunk, indexed_text
from retrieval.documents import Document, MetadataValue
from retrieval.filters import FieldType, field_type
from retrieval.store import Point, Scored

_IDS = uuid.UUID("5f0f7a52-54a1-5f0e-9c5f-6f2d3a0c8b11")
METADATA_KEY = re.compile(r"[A-Za-z0-9_-]{1,64}")


@dataclass(frozen=True)
class Hit:
    """A chunk that was found. `text` is `document text[start:end]`; `context` is what was shown before it.

    `score` is the score of the last stage that ordered the hits; `scores` has each stage's own: `dense` is the
    similarity to the question, `bm25` the BM25 score, `rrf` the fused one (0 to 1), `rerank` the reranker's.
    """

    collection: str
    document_id: str
    chunk_id: str
    position: int
    score: float
    text: str
    title: str
    uri: str
    start: int
    end: int
    page: int | None = None
    headings: tuple[str, ...] = ()
    context: str = ""
    metadata: Mapping[str, MetadataValue] = field(default_factory=dict)
    scores: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class DocumentRecord:
    """A document as the collection knows it."""

    document_id: str
    title: str
    uri: str
    num_chunks: int
    content_sha256: str
    metadata: Mapping[str, MetadataValue]


def point_id(tenant: str, document_id: str, position: int) -> str:
    """The UUID of a chunk. JSON keeps the parts apart: `a`, `b/c` is not `a/b`, `c`."""
    return str(uuid.uuid5(_IDS, json.dumps([tenant, document_id, position])))


def make_point(
    document: Document, sha256: str, chunk: Chunk, num_chunks: int, dense: np.ndarray, tenant: str
) -> Point:
    """The point of one of the `num_chunks` chunks of a document; `dense` is [dimension], float32.

    `sha256` is `Chunker.sha256`: a document that has it need not be written again.

    Raises DataError naming the chunk when its vector has no direction.
    """
    payload = {
        "tenant": tenant,
        "document_id": document.id,
        "title": document.title,
        "uri": document.uri,
        "content_sha256": sha256,
        "num_chunks": num_chunks,
        "metadata": {key: _stored(value) for key, value in document.metadata.items()},
        "position": chunk.position,
        "text": chunk.text,
        "start": chunk.start,
        "end": chunk.end,
        "page": chunk.page,
        "headings": list(chunk.headings),
        "context": chunk.context,
    }
    id_ = point_id(tenant, document.id, chunk.position)
    return Point(id_, dense, weigh_document(chunk.indexed_text), payload)


def joined_fields(
    known: Mapping[str, FieldType], document_id: str, metadata: Mapping[str, Any]
) -> dict[str, FieldType]:
    """The types of a collection's metadata keys, and of a document's among them.

    Raises DataError naming a key that cannot be filtered by, or that holds another type in the collection.
    """
    fields = dict(known)
    for key, value in metadata.items():
        if not METADATA_KEY.fullmatch(key):
            raise DataError(
                f"metadata key {key!r} must be 1 to 64 letters, digits, _ or -", f"metadata.{key}"
            )
        try:
            kind = field_type(value)
        except TypeError as exc:
            raise DataError(f"metadata.{key}: {exc}", f"metadata.{key}") from exc
        if fields.setdefault(key, kind) is not kind:
            raise DataError(
                f"metadata.{key} of document {document_id!r} is a {kind}, but the collection holds {fields[key]}s "
                "under that key",
                f"metadata.{key}",
            )
    return fields


def remade_point(stored: Scored, dense: np.ndarray) -> Point:
    """The same chunk with another vector; its words are weighed afresh."""
    return Point(stored.id, dense, weigh_document(stored_text(stored)), stored.payload)


def redescribed(stored: Scored, metadata: Mapping[str, MetadataValue]) -> Point:
    """The same chunk, scrolled with its vector, of a document with other metadata."""
    described = {key: _stored(value) for key, value in metadata.items()}
    # The content hash covers the metadata. What it would be now is known only with the whole document at hand,
    # so it becomes one that no document has.
    before = stored.payload["content_sha256"]
    changed = hashlib.sha256(f"{before}{json.dumps(described, sort_keys=True)}".encode()).hexdigest()
    return _with_payload(stored, metadata=described, content_sha256=changed)


def unfinished(stored: Scored) -> Point:
    """The same first chunk, scrolled with its vector, of a document that is being written: it has no hash."""
    return _with_payload(stored, content_sha256="")


def stored_text(stored: Scored) -> str:
    """What was embedded of a stored chunk."""
    return indexed_text(stored.payload["context"], stored.payload["text"])


def make_hit(collection: str, found: Scored, score: float, scores: Mapping[str, float]) -> Hit:
    payload = found.payload
    return Hit(
        collection=collection,
        document_id=payload["document_id"],
        chunk_id=found.id,
        position=payload["position"],
        score=score,
        text=payload["text"],
        title=payload["title"],
        uri=payload["uri"],
        start=payload["start"],
        end=payload["end"],
        page=payload["page"],
        headings=tuple(payload["headings"]),
        context=payload["context"],
        metadata=_returned(payload["metadata"]),
        scores=dict(scores),
    )


def make_record(first_chunk: Mapping[str, Any]) -> DocumentRecord:
    return DocumentRecord(
        document_id=first_chunk["document_id"],
        title=first_chunk["title"],
        uri=first_chunk["uri"],
        num_chunks=first_chunk["num_chunks"],
        content_sha256=first_chunk["content_sha256"],
        metadata=_returned(first_chunk["metadata"]),
    )


def _with_payload(stored: Scored, **changed: Any) -> Point:
    """The same chunk with other values in its payload. What is embedded of it must not be among them."""
    assert stored.vector is not None
    return Point(stored.id, stored.vector, weigh_document(stored_text(stored)), {**stored.payload, **changed})


def _stored(value: MetadataValue) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _returned(metadata: Mapping[str, Any]) -> dict[str, MetadataValue]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in metadata.items()}
