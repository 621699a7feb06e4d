from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from retrieval.client import CollectionsClient
from retrieval.config import retrieval_config
from retrieval.documents import Content, Document, Section
from retrieval.exact_store import ExactStore
from retrieval.explain import explain
from retrieval.ingest import Ingestor
from retrieval.owner import InProcess
from retrieval.readers import read_document
from retrieval.rerank import positive_class, rerank
from retrieval.search import Mode, SearchRequest, merge_results
from retrieval.service import Collections
from retrieval.vectorizer import HashEmbedder

EMBEDDER = HashEmbedder()
TEXTS = {
    "leave": "Paid leave is 27 days.",
    "moving": "Moving house: code MV-83.",
    "lunch": "Lunch is paid by badge.",
}


class LongestFirst:
    """A reranker that likes long passages."""

    name = "longest"

    def score(self, question: str, texts: Sequence[str]) -> np.ndarray:
        return np.asarray([len(text) for text in texts], dtype=np.float32)


def request(question: str) -> SearchRequest:
    return SearchRequest(question, EMBEDDER.embed_queries([question])[0])


@pytest.fixture
def collections() -> CollectionsClient:
    client = CollectionsClient(InProcess(Collections(ExactStore())))
    for name, ids in (("one", ["leave", "moving"]), ("two", ["lunch"])):
        documents = [
            Document(id_, "", id_, Content(TEXTS[id_], (Section(0, len(TEXTS[id_])),))) for id_ in ids
        ]
        Ingestor(client, EMBEDDER, retrieval_config(collection=name)).add(documents)
    return client


@pytest.mark.parametrize(
    ("labels", "positive"),
    [
        (["0", "1"], "1"),
        (["different", "equivalent"], "equivalent"),
        (["Relevant", "unrelated"], "Relevant"),
        (["contradiction", "entailment", "neutral"], "entailment"),
        (["LABEL_0", "LABEL_1"], "LABEL_1"),
        (["match", "same", "unsure"], "unsure"),
        (["score"], "score"),
    ],
)
def test_pairs_are_ranked_by_the_class_that_is_named_for_it_else_by_the_last(
    labels: list[str], positive: str
) -> None:
    assert labels[positive_class(labels)] == positive


def test_a_reranker_orders_the_hits_and_its_score_and_time_are_kept(collections: CollectionsClient) -> None:
    found = collections.search("one", request("paid leave"))
    assert [hit.document_id for hit in found.hits] == ["leave", "moving"]
    ordered = rerank("paid leave", found, LongestFirst(), 1)
    assert [hit.document_id for hit in ordered.hits] == ["moving"]
    assert ordered.hits[0].score == ordered.hits[0].scores["rerank"] == len(TEXTS["moving"])
    assert list(ordered.stages_ms) == ["dense", "bm25", "fuse", "rerank"]


def test_nothing_found_needs_no_reranker(collections: CollectionsClient) -> None:
    empty = collections.search("one", request("paid leave"), "nobody")
    assert rerank("paid leave", empty, LongestFirst(), 5).hits == ()


def test_several_collections_give_one_list(collections: CollectionsClient) -> None:
    results = [collections.search(name, request("paid badge")) for name in ("one", "two")]
    merged = merge_results(results, 2)
    assert [(hit.collection, hit.document_id) for hit in merged.hits] == [("one", "leave"), ("two", "lunch")]
    assert merged.stages_ms.keys() == results[0].stages_ms.keys()


def test_an_explanation_has_ranks_scores_and_words(collections: CollectionsClient) -> None:
    found = explain(collections, "one", request("how many days of paid holiday?"), "leave")
    assert found is not None
    assert found.ranks == {"dense": 1, "bm25": 1, "rrf": 1}
    assert set(found.hit.scores) == {"dense", "bm25", "rrf"}
    assert found.shared_words == ("days", "paid")
    assert "holiday" in found.missing_words
    assert explain(collections, "one", request("paid"), "unknown") is None
    judged = explain(collections, "one", request("paid leave"), "leave", reranker=LongestFirst())
    assert judged is not None
    assert list(judged.ranks.items()) == [("dense", 1), ("bm25", 1), ("rrf", 1), ("rerank", 2)]
    assert judged.hit.scores["rerank"] == len(TEXTS["leave"])


def test_ranks_and_scores_of_an_explanation_are_of_one_chunk() -> None:
    client = CollectionsClient(InProcess(Collections(ExactStore())))
    config = retrieval_config(
        collection="c", chunk_tokens=12, chunk_overlap_tokens=0, context_tokens=0, deduplicate=False
    )
    parts = ["# A\n\nleave leave leave leave policy", "# B\n\nzeta leave office hours and many other words"]
    Ingestor(client, EMBEDDER, config).add(
        [
            read_document("\n\n".join(parts).encode(), "l.md", "l.md"),
            read_document(b"# C\n\nzeta zeta", "m.md", "m.md"),
        ]
    )
    asked = request("leave zeta")
    found = explain(client, "c", asked, "l.md")
    assert found is not None
    for mode, stage in ((Mode.DENSE, "dense"), (Mode.BM25, "bm25"), (Mode.HYBRID, "rrf")):
        ids = [hit.chunk_id for hit in client.search("c", replace(asked, mode=mode)).hits]
        assert found.ranks[stage] == ids.index(found.hit.chunk_id) + 1
