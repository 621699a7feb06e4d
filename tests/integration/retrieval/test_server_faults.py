"""The Qdrant client against a server that is slow, failing, away, or in strict mode: over real HTTP."""

from __future__ import annotations

from itertools import accumulate, pairwise
from typing import Any

import numpy as np
import pytest
from qdrant_client import QdrantClient

from cluster.errors import Conflict, NotFound, StoreUnavailable
from retrieval.batches import MAX_BYTES, MAX_POINTS
from retrieval.client import CollectionsClient
from retrieval.config import retrieval_config
from retrieval.documents import Content, Document, Section
from retrieval.ingest import Ingestor
from retrieval.owner import InProcess
from retrieval.search import Mode, SearchRequest
from retrieval.server_calls import MAX_WAIT_S, ServerCalls
from retrieval.server_store import ServerStore
from retrieval.service import Collections
from retrieval.store import CollectionSpec, Point, SparseVector
from retrieval.vectorizer import HashEmbedder

CONFIG = retrieval_config(collection="c", chunk_tokens=20, chunk_overlap_tokens=0, context_tokens=0)


def open_server(url: str, timeout_s: int = 5, max_attempts: int = 5) -> CollectionsClient:
    client = QdrantClient(url=url, timeout=timeout_s, check_compatibility=False)
    store = ServerStore(client, calls=ServerCalls(wait_s=0.01, max_attempts=max_attempts))
    return CollectionsClient(InProcess(Collections(store)))


def document(id_: str, num_sentences: int, **metadata: Any) -> Document:
    # Two kilobytes a chunk, as prose in a verbose format has.
    padding = "x" * 250
    text = "\n\n".join(f"Sentence {n} of {id_} {padding}" for n in range(num_sentences))
    return Document(id_, id_, id_, Content(text, (Section(0, len(text)),)), metadata)


def test_a_slow_server_with_every_seventh_request_failing_loses_and_doubles_nothing(qdrant: Any) -> None:
    qdrant.fault = lambda number, method, path: 503 if number % 7 == 0 else 0.02
    collections = open_server(qdrant.url)
    report = Ingestor(collections, HashEmbedder(), CONFIG).add([document("a", 1200)])
    assert report.num_chunks == collections.count("c") > 250
    uploads = [size for method, path, size in qdrant.requests if (method, path[-7:]) == ("PUT", "/points")]
    assert len(uploads) > report.num_chunks / MAX_POINTS
    assert max(uploads) < 8 << 20


def test_requests_of_large_chunks_are_bounded_in_bytes(qdrant: Any) -> None:
    collections = open_server(qdrant.url)
    collections.ensure(CollectionSpec("c", 4, "e", "f"))
    text = "x" * (MAX_BYTES // 40)  # counted as four bytes each: nine go together
    points = [
        Point(f"{n:032x}", np.ones(4, np.float32), SparseVector((1,), (1.0,)), {"tenant": "t", "text": text})
        for n in range(30)
    ]
    collections.upsert("c", points, "f")
    assert collections.count("c", "t") == 30
    uploads = [size for method, path, size in qdrant.requests if (method, path[-7:]) == ("PUT", "/points")]
    assert len(uploads) == 4
    assert max(uploads) < MAX_BYTES


@pytest.mark.soak
def test_thousands_of_chunks_reach_a_slow_and_failing_server_whole(qdrant: Any) -> None:
    qdrant.fault = lambda number, method, path: 503 if number % 7 == 0 else 0.2
    texts = [f"Sentence {n} {'word ' * 400}" for n in range(5000)]
    starts = [0, *accumulate(len(text) for text in texts)]
    sections = tuple(Section(start, end) for start, end in pairwise(starts))
    config = CONFIG.model_copy(update={"chunk_tokens": 500})
    collections = open_server(qdrant.url)
    ingestor = Ingestor(collections, HashEmbedder(max_tokens=600), config)
    ingestor.add([Document("a", "a", "a", Content("".join(texts), sections))])
    assert collections.count("c") == collections.documents("c")[0].num_chunks == 5000
    uploads = [size for method, path, size in qdrant.requests if (method, path[-7:]) == ("PUT", "/points")]
    assert max(uploads) < MAX_BYTES


@pytest.mark.parametrize("fault", ["hang up", "lose answer", 429, 500])
def test_a_request_that_fails_once_is_repeated_with_the_same_ids(qdrant: Any, fault: int | str) -> None:
    failed: set[str] = set()

    def once(number: int, method: str, path: str) -> int | str | None:
        if path in failed:
            return None
        failed.add(path)
        return fault

    qdrant.fault = once
    collections = open_server(qdrant.url)
    Ingestor(collections, HashEmbedder(), CONFIG).add([document("a", 50)])
    assert collections.count("c") == collections.documents("c")[0].num_chunks
    assert len(failed) > 5


@pytest.mark.parametrize(("retry_after", "told"), [("60", 60), ("Fri, 27 Nov 2026 12:00:00 GMT", 2)])
def test_a_server_that_limits_the_rate_for_long_is_unavailable_until_then(
    qdrant: Any, retry_after: str, told: float
) -> None:
    qdrant.fault, qdrant.retry_after = lambda number, method, path: 429, retry_after
    with pytest.raises(StoreUnavailable, match="limits how often") as caught:
        open_server(qdrant.url).list_collections()
    assert caught.value.retry_after_s == told
    assert len(qdrant.requests) == (1 if told > MAX_WAIT_S else 5)


def test_a_slow_server_is_waited_for(qdrant: Any) -> None:
    qdrant.fault = lambda number, method, path: 0.05
    collections = open_server(qdrant.url)
    Ingestor(collections, HashEmbedder(), CONFIG).add([document("a", 20)])
    assert collections.documents("c")[0].document_id == "a"


def test_a_server_slower_than_the_limit_is_unavailable_with_a_time_to_come_back(qdrant: Any) -> None:
    collections = open_server(qdrant.url, timeout_s=1, max_attempts=1)
    Ingestor(collections, HashEmbedder(), CONFIG).add([document("a", 20)])
    qdrant.fault = lambda number, method, path: 1.5 if path.endswith("/delete") else None
    with pytest.raises(StoreUnavailable) as caught:
        collections.delete_documents("c", ["a"])
    assert caught.value.retry_after_s
    # Whether it happened is not known; to do it again is safe and tells.
    qdrant.fault = lambda number, method, path: None
    collections.delete_documents("c", ["a"])
    assert collections.count("c") == 0


def test_a_lasting_failure_says_how_far_it_got_and_leaves_the_document_unready(qdrant: Any) -> None:
    collections = open_server(qdrant.url)
    ingestor = Ingestor(collections, HashEmbedder(), CONFIG)
    uploads = 0

    def full_disk(number: int, method: str, path: str) -> int | None:
        nonlocal uploads
        uploads += (method, path[-7:]) == ("PUT", "/points")
        return 500 if uploads > 1 and path.endswith("/points") else None

    qdrant.fault = full_disk
    with pytest.raises(StoreUnavailable, match=r"answered 500.*\d+ of \d+ chunks were written") as caught:
        ingestor.add([document("a", 1200)])
    assert caught.value.status == 503
    qdrant.fault = lambda number, method, path: None
    assert collections.documents("c") == []
    ingestor.add([document("a", 1200)])
    assert collections.count("c") == collections.documents("c")[0].num_chunks


def test_strict_mode_finds_an_index_for_every_field_that_is_filtered_by(qdrant: Any) -> None:
    collections = open_server(qdrant.url)
    ingestor = Ingestor(collections, HashEmbedder(), CONFIG)
    ingestor.add([document("a", 3, team="hr", year=2024, open=True)])
    where = {
        "type": "and",
        "filters": [
            {"type": "eq", "key": "team", "value": "hr"},
            {"type": "gte", "key": "year", "value": 2024},
            {"type": "eq", "key": "open", "value": True},
        ],
    }
    hits = collections.search("c", SearchRequest("sentence", mode=Mode.BM25, filter=where)).hits
    assert {hit.document_id for hit in hits} == {"a"}
    # A key that only a later document has gets its index too.
    ingestor.add([document("b", 3, team="it", level="low")])
    late = {"type": "eq", "key": "level", "value": "low"}
    hits = collections.search("c", SearchRequest("sentence", mode=Mode.BM25, filter=late)).hits
    assert {hit.document_id for hit in hits} == {"b"}
    assert collections.delete_documents("c", ["a"]) > 0


def test_an_older_collection_gets_the_indexes_that_it_lacks(qdrant: Any) -> None:
    collections = open_server(qdrant.url)
    Ingestor(collections, HashEmbedder(), CONFIG).add([document("a", 3)])
    (indexed,) = qdrant.indexes.values()
    indexed.discard("position")
    with pytest.raises(StoreUnavailable, match="Index required"):
        collections.documents("c")
    start = len(qdrant.requests)
    assert (
        Ingestor(open_server(qdrant.url), HashEmbedder(), CONFIG).add([document("a", 3)]).num_unchanged == 1
    )
    made = [path for method, path, _ in qdrant.requests[start:] if path.endswith("/index")]
    assert len(made) == 1
    assert [record.document_id for record in collections.documents("c")] == ["a"]


def test_a_key_that_is_refused_and_a_server_that_is_away_say_what_to_check(qdrant: Any) -> None:
    collections = open_server(qdrant.url)
    qdrant.fault = lambda number, method, path: 401
    with pytest.raises(StoreUnavailable, match="HAMLET_QDRANT_API_KEY"):
        collections.list_collections()
    qdrant.close()
    with pytest.raises(StoreUnavailable, match="HAMLET_QDRANT_URL"):
        collections.list_collections()


def test_an_unknown_collection_and_a_foreign_one_are_told_apart(qdrant: Any) -> None:
    from qdrant_client import models

    collections = open_server(qdrant.url)
    with pytest.raises(NotFound):
        collections.count("nothing")
    plain = QdrantClient(url=qdrant.url, check_compatibility=False)
    plain.create_collection("theirs", models.VectorParams(size=3, distance=models.Distance.COSINE))
    with pytest.raises(Conflict, match="not made by Hamlet"):
        collections.describe("theirs")


def test_what_other_applications_have_on_the_server_is_neither_listed_nor_touched(qdrant: Any) -> None:
    from qdrant_client import models

    collections = open_server(qdrant.url)
    collections.ensure(CollectionSpec("c", 4, "e", "f"))
    plain = QdrantClient(url=qdrant.url, check_compatibility=False)
    plain.create_collection("theirs-v2", models.VectorParams(size=4, distance=models.Distance.COSINE))
    alias = models.CreateAlias(collection_name="theirs-v2", alias_name="theirs")
    plain.update_collection_aliases([models.CreateAliasOperation(create_alias=alias)])
    assert [info.spec.name for info in collections.list_collections()] == ["c"]
    with pytest.raises(Conflict, match="not made by Hamlet"):
        collections.ensure(CollectionSpec("theirs", 4, "e", "f"))
    assert qdrant.indexes["theirs-v2"] == set()
