"""Bodies of `/v1/vector_stores`, in OpenAI's shapes. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cluster.vector_store_records import Chunking, FileBatch, FileCounts, FileStatus, StoreFile, VectorStore
from retrieval.points import Hit
from serving.vector_store_search import Found, FoundChunk, is_collection

# Names of the stages' scores in answers, and in `Hit.scores`.
SCORES = {"dense": "dense", "sparse": "bm25", "fused": "rrf", "reranked": "rerank"}


def store_object(store: VectorStore, now: float) -> dict[str, Any]:
    """A `vector_store`."""
    status = "in_progress" if store.file_counts.in_progress else "completed"
    days, expires_at = store.expires_after_days, store.expires_at
    body = {
        "id": store.id,
        "object": "vector_store",
        "created_at": int(store.created_at),
        "name": store.name,
        "usage_bytes": store.usage_bytes,
        "file_counts": _counts(store.file_counts),
        "status": "expired" if store.is_expired(now) else status,
        "expires_at": None if expires_at is None else int(expires_at),
        "last_active_at": int(store.last_active_at),
        "metadata": dict(store.labels),
    }
    body |= {"description": store.description} if store.description else {}
    body |= {"hamlet": {"collection": store.name, "read_only": True}} if is_collection(store) else {}
    return body | ({} if days is None else {"expires_after": {"anchor": "last_active_at", "days": days}})


def file_object(file: StoreFile) -> dict[str, Any]:
    """A `vector_store.file`."""
    return {
        "id": file.id,
        "object": "vector_store.file",
        "usage_bytes": file.usage_bytes,
        "created_at": int(file.created_at),
        "vector_store_id": file.store_id,
        "status": file.status.value,
        "last_error": None if file.error is None else dict(zip(("code", "message"), file.error, strict=True)),
        "chunking_strategy": _strategy(file.chunking),
        "attributes": dict(file.attributes),
        "hamlet": {"filename": file.filename},
    }


def _strategy(chunking: Chunking | None) -> dict[str, Any]:
    if chunking is None:
        return {"type": "other"}
    static = {
        "max_chunk_size_tokens": chunking.chunk_tokens,
        "chunk_overlap_tokens": chunking.overlap_tokens,
    }
    return {"type": "static", "static": static}


def batch_object(batch: FileBatch) -> dict[str, Any]:
    """A `vector_store.files_batch`."""
    return {
        "id": batch.id,
        "object": "vector_store.files_batch",
        "created_at": int(batch.created_at),
        "vector_store_id": batch.store_id,
        "status": _batch_status(batch).value,
        "file_counts": _counts(batch.file_counts),
    }


def _batch_status(batch: FileBatch) -> FileStatus:
    counts = batch.file_counts
    if batch.is_cancelled:
        return FileStatus.CANCELLED
    if counts.in_progress:
        return FileStatus.IN_PROGRESS
    return FileStatus.FAILED if counts.failed and counts.failed == counts.total else FileStatus.COMPLETED


def search_page(queries: Sequence[str], found: Found, explain: bool) -> dict[str, Any]:
    """A `vector_store.search_results.page`.

    `score` is the similarity of chunk and question, 0 to 1, which the threshold is compared with; the order is
    that of the last stage. With `explain`, each chunk has the extension `hamlet`, and the page its stages.
    """
    body = {
        "object": "vector_store.search_results.page",
        "search_query": list(queries),
        "data": [_result(chunk, explain) for chunk in found.chunks],
        "has_more": False,
        "next_page": None,
    }
    return body | ({"hamlet": {"stage_ms": found.stage_ms}} if explain else {})


def content_page(chunks: Sequence[Hit]) -> dict[str, Any]:
    """A `vector_store.file_content.page`: the chunks as they are searched, with where they stand."""
    return {
        "object": "vector_store.file_content.page",
        "data": [{"type": "text", "text": chunk.text, "hamlet": _place(chunk)} for chunk in chunks],
        "has_more": False,
        "next_page": None,
    }


def _result(chunk: FoundChunk, explain: bool) -> dict[str, Any]:
    hit = chunk.hit
    body = {
        "file_id": chunk.file_id,
        "filename": chunk.filename,
        "score": min(1.0, max(0.0, hit.scores["dense"])),
        "attributes": dict(chunk.attributes),
        "content": [{"type": "text", "text": hit.text}],
    }
    if not explain:
        return body
    scores = {name: hit.scores.get(stage) for name, stage in SCORES.items()}
    return body | {"hamlet": _place(hit) | {"scores": scores}}


def _place(hit: Hit) -> dict[str, Any]:
    """Where a chunk stands: `start` and `end` are characters of the file's text."""
    return {
        "chunk_id": hit.chunk_id,
        "position": hit.position,
        "start": hit.start,
        "end": hit.end,
        "page": hit.page,
        "headings": list(hit.headings),
        "context": hit.context,
    }


def _counts(counts: FileCounts) -> dict[str, int]:
    return {**counts._asdict(), "total": counts.total}
