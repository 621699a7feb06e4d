"""Collections over the exact store: tenancy, stages, refusals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from qdrant_client import QdrantClient

from cluster.errors import Conflict, DataError, InvalidInput, NotFound
from retrieval.client import CollectionsClient
from retrieval.config import Distance, retrieval_config
from retrieval.documents import Content, Document, MetadataValue, Section
from retrieval.exact_store import ExactStore
from retrieval.filters import Op
from retrieval.ingest import Ingestor
from retrieval.owner import InProcess
from retrieval.search import Mode, SearchRequest, SearchResult
from retrieval.server_store import ServerStore
from retrieval.service import Collections
from retrieval.store import CollectionSpec, Scored
from retrieval.vectorizer import HashEmbedder

EMBEDDER = HashEmbedder()
TEXTS = {
    "leave": (
        "Every employee has 27 days of paid leave in a year.",
        {"team": "hr", "year": 2024, "open": True},
    ),
    "badge": ("The badge opens the front door until ten.", {"team": "security", "year": 2023}),
    "canteen": ("A hot lunch in the canteen costs 4.70 euros.", {"team": "office", "open": False}),
    "code": ("Moving house is booked under the code MV-83.", {"team": "hr", "year": 2025}),
}


def document(id_: str, text: str, metadata: dict[str, MetadataValue] | None = None) -> Document:
    return Document(id_, id_, f"{id_}.txt", Content(text, (Section(0, len(text)),)), metadata or {})


@pytest.fixture(scope="module")
def collections() -> CollectionsClient:
    return filled(Distance.COSINE)


def filled(distance: Distance) -> CollectionsClient:
    client = CollectionsClient(InProcess(Collections(ExactStore())))
    config = retrieval_config(collection="handbook", distance=distance)
    documents = [document(id_, text, dict(metadata)) for id_, (text, metadata) in TEXTS.items()]
    Ingestor(client, EMBEDDER, config, "ann").add(documents)
    secret = document(
        "secret", "Paid leave of the other company: badge, canteen, code.", {"team": "hr", "year": 1}
    )
    Ingestor(client, EMBEDDER, config, "bob").add([secret])
    return client


def request(text: str, **options: Any) -> SearchRequest:
    return SearchRequest(text, EMBEDDER.embed_queries([text])[0], **options)


def ids(result: SearchResult) -> list[str]:
    return [hit.document_id for hit in result.hits]


def test_a_hit_says_where_it_stands_and_what_each_stage_scored(collections: CollectionsClient) -> None:
    result = collections.search("handbook", request("How many days of paid leave?"), "ann")
    hit = result.hits[0]
    assert hit.document_id == "leave"
    assert hit.text == TEXTS["leave"][0][hit.start : hit.end]
    assert (hit.uri, hit.title, hit.metadata["year"]) == ("leave.txt", "leave", 2024)
    assert set(hit.scores) == {"dense", "bm25", "rrf"}
    assert hit.score == hit.scores["rrf"] == 1.0
    assert list(result.stages_ms) == ["dense", "bm25", "fuse"]


@pytest.mark.parametrize(
    ("nearer", "other", "words"),
    [("leave", "badge", "badge front door ten days"), ("badge", "leave", "employee paid days year door")],
)
def test_of_two_hits_with_equal_fused_scores_the_more_similar_one_goes_first(
    collections: CollectionsClient, nearer: str, other: str, words: str
) -> None:
    near, far = EMBEDDER.embed_documents([TEXTS[nearer][0], TEXTS[other][0]])
    vector = (0.8 * near + 0.6 * far) / np.linalg.norm(0.8 * near + 0.6 * far)
    first, second = collections.search("handbook", SearchRequest(words, vector, top_k=2), "ann").hits
    assert first.score == second.score
    assert (first.document_id, second.document_id) == (nearer, other)


@pytest.mark.parametrize(("mode", "stage"), [(Mode.DENSE, "dense"), (Mode.BM25, "bm25")])
def test_one_ranking_alone(collections: CollectionsClient, mode: Mode, stage: str) -> None:
    result = collections.search("handbook", request("code MV-83", mode=mode), "ann")
    assert ids(result)[0] == "code"
    assert list(result.stages_ms) == [stage]
    assert result.hits[0].score == result.hits[0].scores[stage]


def test_words_alone_need_no_vector(collections: CollectionsClient) -> None:
    result = collections.search("handbook", SearchRequest("canteen", mode=Mode.BM25), "ann")
    assert ids(result) == ["canteen"]


def test_stop_words_alone_find_nothing_by_words(collections: CollectionsClient) -> None:
    assert ids(collections.search("handbook", SearchRequest("the of and", mode=Mode.BM25), "ann")) == []


@pytest.mark.parametrize("distance", Distance)
@pytest.mark.parametrize("mode", Mode)
def test_a_score_threshold_means_similarity_in_every_mode(mode: Mode, distance: Distance) -> None:
    collections = filled(distance)
    question = "paid leave of every employee in a year"
    free = collections.search("handbook", request(question, mode=mode), "ann")
    held = collections.search("handbook", request(question, mode=mode, score_threshold=0.4), "ann")
    assert ids(held) == ["leave"]
    cosine = (
        EMBEDDER.embed_queries([question])[0] @ EMBEDDER.embed_documents(["leave\n\n" + TEXTS["leave"][0]])[0]
    )
    assert held.hits[0].scores["dense"] == pytest.approx(cosine)
    assert (
        collections.search("handbook", request(question, mode=mode, score_threshold=0.999), "ann").hits == ()
    )
    assert len(free.hits) >= len(held.hits)


class Forgetful(ExactStore):
    """Loses what is looked up by id: it was deleted since it was found."""

    def nearest(self, *args: Any, **options: Any) -> list[Scored]:
        return [] if options.get("ids") else super().nearest(*args, **options)


def test_a_chunk_that_is_deleted_during_a_search_is_no_hit_and_no_fault() -> None:
    client = CollectionsClient(InProcess(Collections(Forgetful())))
    Ingestor(client, EMBEDDER, retrieval_config(collection="c"), "ann").add([document("a", "One lunch.")])
    words_alone = SearchRequest(
        "lunch", EMBEDDER.embed_queries(["lunch"])[0], mode=Mode.BM25, score_threshold=-2.0
    )
    assert client.search("c", words_alone, "ann").hits == ()


def test_filters_narrow_a_search(collections: CollectionsClient) -> None:
    hr = {"type": "eq", "key": "team", "value": "hr"}
    late = {"type": "and", "filters": [hr, {"type": "gt", "key": "year", "value": 2024}]}
    assert set(ids(collections.search("handbook", request("leave", filter=hr), "ann"))) == {"leave", "code"}
    assert ids(collections.search("handbook", request("leave", filter=late), "ann")) == ["code"]


keys = st.sampled_from(["team", "year", "open", "tenant", "document_id", "metadata.team", "metadata", ""])
values = st.one_of(
    st.sampled_from(["hr", "ann", "bob", "secret", "*"]),
    st.integers(-5, 3000),
    st.booleans(),
    st.none(),
    st.lists(st.sampled_from(["hr", "bob", 1, True]), max_size=3),
)
leaves = st.fixed_dictionaries(
    {"type": st.sampled_from([*Op, "like"]), "key": keys, "value": values},
    optional={"tenant": st.just("bob")},
)
filters = st.recursive(
    leaves,
    lambda inner: st.fixed_dictionaries(
        {"type": st.sampled_from(["and", "or", "not"]), "filters": st.lists(inner, max_size=3)}
    ),
    max_leaves=6,
)


# The integration tests try ten thousand on the embedded engine.
@settings(max_examples=500, database=None)
@given(filters)
def test_no_filter_reaches_another_tenant(collections: CollectionsClient, raw: dict[str, Any]) -> None:
    try:
        result = collections.search("handbook", SearchRequest("leave", ALL_WAYS, filter=raw, top_k=50), "ann")
    except InvalidInput:
        return
    assert "secret" not in ids(result)


ALL_WAYS = EMBEDDER.embed_queries(["paid leave badge canteen code"])[0]


def test_a_tenant_sees_counts_and_deletes_only_its_own(collections: CollectionsClient) -> None:
    assert ids(collections.search("handbook", request("leave"), "bob")) == ["secret"]
    assert [record.document_id for record in collections.documents("handbook", "bob")] == ["secret"]
    assert collections.count("handbook", "bob") == 1
    assert collections.delete_documents("handbook", ["secret"], "ann") == 0
    assert collections.count("handbook", "carl") == 0


@pytest.mark.parametrize("selector", [[], [""], ["leave", ""]])
def test_an_empty_selector_deletes_nothing(collections: CollectionsClient, selector: list[str]) -> None:
    with pytest.raises(InvalidInput):
        collections.delete_documents("handbook", selector, "ann")
    assert collections.delete_chunks_from("handbook", {}, "ann") == 0
    assert collections.count("handbook", "ann") == 4


@pytest.mark.parametrize(
    ("options", "param"),
    [({"top_k": 0}, "top_k"), ({"top_k": 1001}, "top_k"), ({"diversity": 1.5}, "diversity")],
)
def test_a_bad_request_names_its_field(
    collections: CollectionsClient, options: dict[str, Any], param: str
) -> None:
    with pytest.raises(InvalidInput) as caught:
        collections.search("handbook", request("leave", **options), "ann")
    assert caught.value.param == param


def test_an_empty_question_is_refused(collections: CollectionsClient) -> None:
    with pytest.raises(InvalidInput, match="empty"):
        collections.search("handbook", SearchRequest("  ", mode=Mode.BM25), "ann")


def test_another_embedder_is_refused_with_both_sizes_at_search_and_at_ingest() -> None:
    client = CollectionsClient(InProcess(Collections(ExactStore())))
    client.ensure(CollectionSpec("handbook", 384, "builtin:minilm", "aa"))
    wide = SearchRequest("leave", np.ones(768, dtype=np.float32))
    with pytest.raises(Conflict, match=r"384.*builtin:minilm.*768.*migrate"):
        client.search("handbook", wide)
    with pytest.raises(Conflict, match=r"builtin:minilm \(384.*other \(768"):
        client.ensure(CollectionSpec("handbook", 768, "other", "bb"))
    same_size = SearchRequest("leave", np.ones(384, dtype=np.float32), fingerprint="bb")
    with pytest.raises(Conflict, match=r"aa.*bb"):
        client.search("handbook", same_size)
    with pytest.raises(Conflict, match="fingerprint aa"):
        client.ensure(CollectionSpec("handbook", 384, "tuned", "bb"))
    assert client.describe("handbook").spec.dimension == 384


def test_the_same_model_by_another_name_is_welcome() -> None:
    client = CollectionsClient(InProcess(Collections(ExactStore())))
    client.ensure(CollectionSpec("handbook", 8, "builtin:minilm", "aa"))
    assert (
        client.ensure(CollectionSpec("handbook", 8, "/models/minilm", "aa")).spec.embedder == "builtin:minilm"
    )


def test_a_metadata_key_keeps_its_type() -> None:
    client = CollectionsClient(InProcess(Collections(ExactStore())))
    ingestor = Ingestor(client, EMBEDDER, retrieval_config(collection="typed"))
    ingestor.add([document("a", "One.", {"year": 2024})])
    with pytest.raises(DataError, match=r"metadata\.year of document 'b' is a string.*numbers"):
        ingestor.add([document("b", "Two.", {"year": "2024"})])


def test_metadata_that_are_refused_leave_the_document_as_it_was() -> None:
    client = filled(Distance.COSINE)
    before = client.document("handbook", "leave", "ann")
    with pytest.raises(DataError, match="holds numbers"):
        client.set_metadata("handbook", "leave", {"year": "last"}, "ann")
    assert client.document("handbook", "leave", "ann") == before


@pytest.mark.parametrize(
    "metadata", [{"a b": 1}, {"": 1}, {"a.b": 1}, {"x": None}, {"x": float("nan")}, {"x": {}}]
)
def test_metadata_that_cannot_be_filtered_by_is_refused(metadata: dict[str, Any]) -> None:
    client = CollectionsClient(InProcess(Collections(ExactStore())))
    with pytest.raises(DataError, match="metadata"):
        Ingestor(client, EMBEDDER, retrieval_config(collection="typed")).add(
            [document("a", "One.", metadata)]
        )


def test_diversity_spreads_the_hits() -> None:
    client = CollectionsClient(InProcess(Collections(ExactStore())))
    texts = ["red car red car", "red car red car.", "red boat"]
    Ingestor(client, EMBEDDER, retrieval_config(collection="c", deduplicate=False)).add(
        [document(str(n), text) for n, text in enumerate(texts)]
    )
    plain = client.search("c", request("red car", mode=Mode.DENSE, top_k=2))
    spread = client.search("c", request("red car", mode=Mode.DENSE, top_k=2, diversity=0.7))
    assert set(ids(plain)) == {"0", "1"}
    assert "2" in ids(spread)
    assert list(spread.stages_ms) == ["dense", "diversify"]


def test_an_unknown_collection_is_not_found(collections: CollectionsClient) -> None:
    with pytest.raises(NotFound, match="retrieval list"):
        collections.search("nothing", request("leave"))


@pytest.mark.filterwarnings("ignore:.*no effect:UserWarning")
def test_a_search_in_one_process_knows_at_once_what_another_wrote_to_the_server() -> None:
    server = QdrantClient(":memory:")
    one, other = (CollectionsClient(InProcess(Collections(ServerStore(server)))) for _ in range(2))
    config = retrieval_config(collection="handbook")
    Ingestor(one, EMBEDDER, config).add([document("a", "Paid leave.")])
    assert ids(other.search("handbook", request("leave"))) == ["a"]
    Ingestor(one, EMBEDDER, config).add([document("b", "Unpaid leave.", {"team": "hr"})])
    of_hr = request("leave", filter={"type": "eq", "key": "team", "value": "hr"})
    assert ids(other.search("handbook", of_hr)) == ["b"]
    assert list(other.describe("handbook").fields) == ["team"]
