"""How vector stores lie in collections: names, ids, metadata and filters. Pure.

The stores of one tenant share one collection, and each search is narrowed to the stores it is of. One
collection for each store costs 14 MiB, 8 threads and half a second to make in the embedded engine; a filter
costs nothing. One for all tenants would let BM25 weigh words by how often other tenants use them.

Attributes are stored under a key made of their type and their name's hash. So a name may be any text, and may
hold a number in one file and a word in another, as OpenAI allows; a collection has one type under each key.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from cluster.errors import InvalidInput
from cluster.vector_store_records import Chunking
from retrieval.chunks import LINE_FEEDS
from retrieval.config import RetrievalConfig
from retrieval.documents import MetadataValue
from retrieval.filters import MAX_CONDITIONS, MAX_DEPTH, FieldType, Op, field_type
from retrieval.points import DocumentRecord, Hit
from retrieval.vectorizer import EmbedderInfo, TextEmbedder

COLLECTION_PREFIX = "vector-stores-"
STORE_KEY = "store"

_DEFAULTS = RetrievalConfig(collection="defaults")
_DOCUMENT_ID = re.compile(r"vs_[0-9a-f]{24}/(.+)", re.DOTALL)


def collection_of(tenant: str) -> str:
    """The collection of a tenant's stores.

    >>> collection_of("default")
    'vector-stores-default'
    """
    return COLLECTION_PREFIX + tenant


def document_id(store_id: str, file_id: str) -> str:
    """The document of a file in a store: the same file in two stores is two documents."""
    return f"{store_id}/{file_id}"


def file_id_of(document: str) -> str:
    """The file of a document; of one that is in no vector store, the document's own id.

    >>> file_id_of("vs_0123456789abcdef01234567/file-1"), file_id_of("docs/leave.md")
    ('file-1', 'docs/leave.md')
    """
    match = _DOCUMENT_ID.fullmatch(document)
    return match[1] if match else document


def filename_of(found: Hit | DocumentRecord) -> str:
    """The name of the file that was read; of a document that has no address, its title."""
    return PurePosixPath(found.uri).name or found.title


def store_id_of(document: str) -> str:
    """The store of a document that is in one."""
    return document.partition("/")[0]


def stored_metadata(store_id: str, attributes: Mapping[str, Any]) -> dict[str, MetadataValue]:
    """What a file's chunks carry to be filtered by."""
    return {STORE_KEY: store_id} | {typed_key(key, value): value for key, value in attributes.items()}


def typed_key(key: str, value: object) -> str:
    """The stored key of an attribute. Raises TypeError for a value that cannot be filtered by.

    >>> typed_key("year", 2024).split("-")[0], typed_key("year", "2024").split("-")[0]
    ('number', 'string')
    """
    return f"{field_type(value).value}-{hashlib.blake2b(key.encode(), digest_size=12).hexdigest()}"


@dataclass(frozen=True)
class Keys:
    """What may stand in a filter: the `known` attributes of files, and the stored keys that are `indexed`."""

    known: Collection[str] = ()
    indexed: Collection[str] = ()


def store_filter(
    store_ids: Sequence[str], raw: Mapping[str, Any] | None = None, keys: Keys | None = None
) -> dict[str, Any]:
    """The filter for a search of these stores, from what a caller sent in OpenAI's form.

    Raises InvalidInput naming the place in `raw`, and listing the known attributes for an unknown one.
    """
    of_stores = {"type": "in", "key": STORE_KEY, "value": list(store_ids)}
    if raw is None:
        return of_stores
    asked = _translated(raw, keys or Keys(), "filters", 1, [MAX_CONDITIONS])
    return {"type": "and", "filters": [of_stores, asked]}


def _translated(raw: object, keys: Keys, at: str, depth: int, budget: list[int]) -> dict[str, Any]:
    budget[0] -= 1
    if budget[0] < 0 or depth >= MAX_DEPTH:
        raise InvalidInput(f"{at}: a filter may have {MAX_CONDITIONS} conditions, {MAX_DEPTH - 1} deep", at)
    if not isinstance(raw, Mapping):
        raise InvalidInput(f"{at} must be an object with a type, not {type(raw).__name__}", at)
    kind = raw.get("type")
    if kind in ("and", "or"):
        parts = raw.get("filters")
        if not isinstance(parts, list) or not parts or set(raw) != {"type", "filters"}:
            raise InvalidInput(f"{at} must have type and filters, a list of at least one", f"{at}.filters")
        inner = [
            _translated(part, keys, f"{at}.filters[{index}]", depth + 1, budget)
            for index, part in enumerate(parts)
        ]
        return {"type": kind, "filters": inner}
    if kind not in list(Op):
        raise InvalidInput(f"{at}.type is {kind!r}; use {', '.join(Op)}, and, or", f"{at}.type")
    return _comparison(raw, Op(kind), keys, at)


def _comparison(raw: Mapping[str, Any], op: Op, keys: Keys, at: str) -> dict[str, Any]:
    if set(raw) != {"type", "key", "value"}:
        raise InvalidInput(f"{at} must have type, key and value alone", at)
    key, value = raw["key"], raw["value"]
    if not isinstance(key, str) or key not in keys.known:
        names = ", ".join(sorted(keys.known)) or "none"
        raise InvalidInput(f"{at}.key is {key!r}, which no file has; known attributes: {names}", f"{at}.key")
    is_list = op in (Op.IN, Op.NIN)
    if is_list and (not isinstance(value, list) or not value):
        raise InvalidInput(f"{at}.value must be a list of at least one value for {op}", f"{at}.value")
    by_key: dict[str, list[Any]] = {}
    for item in value if is_list else [value]:
        by_key.setdefault(_checked_key(key, item, op, at), []).append(item)
    # No file that is read has a value of this type under this name: nothing equals it, all differ from it.
    parts = [
        {"type": op.value, "key": stored, "value": values if is_list else values[0]}
        if stored in keys.indexed
        else {"type": "ne" if op in (Op.NE, Op.NIN) else "eq", "key": STORE_KEY, "value": ""}
        for stored, values in by_key.items()
    ]
    if len(parts) == 1:
        return parts[0]
    return {"type": "or" if op is Op.IN else "and", "filters": parts}


def _checked_key(key: str, value: object, op: Op, at: str) -> str:
    try:
        stored = typed_key(key, value)
    except TypeError as exc:
        raise InvalidInput(f"{at}.value: {exc}", f"{at}.value") from exc
    is_number = field_type(value) is FieldType.NUMBER
    if isinstance(value, list) or (op in (Op.GT, Op.GTE, Op.LT, Op.LTE) and not is_number):
        raise InvalidInput(
            f"{at}.value: {op} does not compare {value!r}; keep dates as numbers", f"{at}.value"
        )
    return stored


def chunking_of(static: tuple[int, int] | None, info: EmbedderInfo) -> Chunking:
    """How a file is cut: as asked for (chunk and overlap in tokens), or as suits the embedder.

    Raises InvalidInput for chunks that the embedder cannot read as a whole, naming both numbers.
    """
    room = info.max_tokens - info.special_tokens - LINE_FEEDS
    if static is None:
        chunk_tokens = min(_DEFAULTS.chunk_tokens, room)
        return Chunking(chunk_tokens, min(_DEFAULTS.chunk_overlap_tokens, chunk_tokens // 2))
    chunk_tokens, overlap_tokens = static
    if chunk_tokens > room:
        raise InvalidInput(
            f"max_chunk_size_tokens {chunk_tokens} exceeds the {room} tokens that {info.name} reads of a text; "
            "lower it, or leave chunking_strategy out",
            "chunking_strategy.static.max_chunk_size_tokens",
        )
    if not 0 <= overlap_tokens <= chunk_tokens // 2:
        raise InvalidInput(
            f"chunk_overlap_tokens {overlap_tokens} must be 0 to half of max_chunk_size_tokens {chunk_tokens}",
            "chunking_strategy.static.chunk_overlap_tokens",
        )
    return Chunking(chunk_tokens, overlap_tokens)


def retrieval_config_of(
    tenant: str, chunking: Chunking, embedder: EmbedderInfo | TextEmbedder
) -> RetrievalConfig:
    """The configuration that a file is ingested with; title and headings get what room the chunks leave."""
    room = embedder.max_tokens - embedder.special_tokens - LINE_FEEDS - chunking.chunk_tokens
    return RetrievalConfig(
        collection=collection_of(tenant),
        embedder=embedder.name,
        chunk_tokens=chunking.chunk_tokens,
        chunk_overlap_tokens=chunking.overlap_tokens,
        context_tokens=max(0, min(_DEFAULTS.context_tokens, room)),
        # Two files with the same content are two files, each to be found and deleted by itself.
        deduplicate=False,
    )
