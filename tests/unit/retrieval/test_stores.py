"""One contract for every store. The Qdrant server runs it too when HAMLET_QDRANT_URL names one."""

from __future__ import annotations

import errno
import os
import tempfile
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import grpc
import numpy as np
import pytest
import qdrant_edge as edge
from qdrant_client import QdrantClient
from qdrant_client.common.client_exceptions import ResourceExhaustedResponse

from cluster.capacity import HNSW_LINKS
from cluster.errors import Conflict, DataError, HamletError, NotFound, StoreUnavailable
from cluster.settings import Settings
from retrieval.config import Distance
from retrieval.edge_store import EdgeStore
from retrieval.exact_store import ExactStore
from retrieval.filters import And, Comparison, FieldType, Filter, Not, Op, Or, equals, one_of
from retrieval.server_calls import ServerCalls
from retrieval.server_store import ServerStore
from retrieval.store import HNSW_M, CollectionSpec, Point, SparseVector, VectorStore

# qdrant-client's in-memory mode says what it takes no notice of: payload indexes, search parameters.
pytestmark = pytest.mark.filterwarnings("ignore:.*no effect:UserWarning")

SPEC = CollectionSpec("things", 4, "builtin:minilm", "abc")
EVERYTHING = equals("tenant", "ann")


@pytest.fixture(params=["exact", "edge", "client-memory", "server"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[VectorStore]:
    if request.param == "server" and not os.environ.get("HAMLET_QDRANT_URL"):
        pytest.skip("HAMLET_QDRANT_URL names no Qdrant server")
    made: VectorStore = {
        "exact": ExactStore,
        "edge": lambda: EdgeStore(tmp_path / "collections"),
        "client-memory": lambda: ServerStore(QdrantClient(":memory:")),
        "server": lambda: ServerStore.from_settings(Settings()),
    }[request.param]()
    yield made
    if request.param == "server":
        for name in made.names():
            if name.startswith("things"):
                made.drop(name)
    made.close()


def id_of(number: int) -> str:
    return str(uuid.UUID(int=number))


def point(number: int, dense: list[float], words: dict[int, float] | None = None, **payload: object) -> Point:
    sparse = SparseVector(tuple(words or {}), tuple((words or {}).values()))
    body = {"tenant": "ann", "document_id": f"d{number}", "position": 0, **payload}
    return Point(id_of(number), np.asarray(dense, dtype=np.float32), sparse, body)


def fill(store: VectorStore, points: list[Point], spec: CollectionSpec = SPEC) -> None:
    store.create(spec)
    store.add_fields(
        spec.name, {"team": FieldType.STRING, "year": FieldType.NUMBER, "open": FieldType.BOOLEAN}
    )
    store.upsert(spec.name, points, spec.fingerprint)


def test_a_folder_that_cannot_be_written_is_told_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreUnavailable, match=r"cannot write to .*collections .*set HAMLET_HOME"):
        EdgeStore(tmp_path / "file" / "collections")


def test_a_full_disk_is_a_store_that_is_unavailable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = EdgeStore(tmp_path / "collections")
    store.create(SPEC)
    full = OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr(tempfile, "mkdtemp", Mock(side_effect=full))
    with pytest.raises(StoreUnavailable, match="No space left"):
        store.create(replace(SPEC, name="more"))
    with pytest.raises(StoreUnavailable, match="No space left"):
        store.drop("things")
    assert store.names() == ["things"]
    store.close()


def test_a_collection_describes_what_it_was_made_for(store: VectorStore) -> None:
    fill(store, [point(1, [1, 0, 0, 0])])
    info = store.describe("things")
    assert info.spec == SPEC
    assert info.fields["year"] is FieldType.NUMBER
    assert info.num_points == 1
    assert store.names() == ["things"]


def test_the_number_of_points_follows_overwriting_and_deleting(store: VectorStore) -> None:
    fill(store, [point(number, [1, 0, 0, number]) for number in range(1, 8)])
    store.upsert("things", [point(number, [0, 1, 0, number]) for number in range(4, 10)], "abc")
    store.delete("things", one_of("document_id", ["d1", "d5"]))
    store.optimize("things")
    assert store.describe("things").num_points == store.count("things", EVERYTHING) == 7


def test_describing_a_collection_walks_over_none_of_its_points(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = EdgeStore(tmp_path / "collections")
    fill(store, [point(1, [1, 0, 0, 0])])
    asked: list[bool] = []
    request = edge.CountRequest
    monkeypatch.setattr(edge, "CountRequest", lambda exact: asked.append(exact) or request(exact=exact))
    assert store.describe("things").num_points == 1
    assert asked == [False]
    store.close()


def test_a_name_that_is_taken_is_a_conflict_and_an_unknown_one_is_not_found(store: VectorStore) -> None:
    store.create(SPEC)
    with pytest.raises(Conflict):
        store.create(SPEC)
    with pytest.raises(NotFound):
        store.describe("nothing")
    with pytest.raises(NotFound):
        store.nearest("nothing", np.ones(4, dtype=np.float32), 1, EVERYTHING)
    store.drop("things")
    assert store.names() == []


def test_of_two_that_drop_a_collection_one_finds_none(store: VectorStore) -> None:
    store.create(SPEC)
    store.describe("things")
    stores = [ServerStore(store._client), store] if isinstance(store, ServerStore) else [store] * 8
    outcomes: list[str | None] = []

    def drop(store: VectorStore) -> None:
        try:
            store.drop("things")
            outcomes.append("dropped")
        except HamletError as exc:
            outcomes.append(exc.code)

    if isinstance(store, ServerStore):  # its in-memory mode is for one thread
        for each in stores:
            drop(each)
    else:
        with ThreadPoolExecutor(8) as threads:
            list(threads.map(drop, stores))
    assert outcomes.count("dropped") == 1
    assert outcomes.count("collection_not_found") == len(stores) - 1


@pytest.mark.parametrize("name", ["things/../things", "../collections/things", "x" * 300, "THINGS", "", "\0"])
def test_a_name_that_no_collection_can_have_is_not_found_and_locks_nothing(
    store: VectorStore, name: str
) -> None:
    store.create(SPEC)
    for verb in (store.describe, store.drop, store.optimize):
        with pytest.raises(NotFound):
            verb(name)
    with pytest.raises(NotFound):
        store.nearest(name, np.ones(4, dtype=np.float32), 1, EVERYTHING)
    store.upsert("things", [point(1, [1, 0, 0, 0])], "abc")
    assert store.describe("things").num_points == 1


def test_hits_come_best_first_and_ties_by_id(store: VectorStore) -> None:
    fill(store, [point(3, [1, 0, 0, 0]), point(1, [0, 1, 0, 0]), point(2, [1, 0, 0, 0])])
    hits = store.nearest("things", np.asarray([1, 0.1, 0, 0], dtype=np.float32), 10, EVERYTHING)
    assert [hit.id for hit in hits] == [id_of(2), id_of(3), id_of(1)]
    assert hits[0].score == pytest.approx(0.995, abs=1e-3)


@pytest.mark.parametrize("distance", Distance)
def test_the_score_of_two_unit_vectors_is_their_cosine_whatever_the_distance(
    store: VectorStore, distance: Distance
) -> None:
    near, far = [0.8, 0.6, 0, 0], [0, 0, 0.6, 0.8]
    spec = CollectionSpec("things", 4, "e", "f", distance)
    fill(store, [point(1, far), point(2, near)], spec)
    hits = store.nearest("things", np.asarray([1, 0, 0, 0], dtype=np.float32), 2, EVERYTHING)
    assert [hit.id for hit in hits] == [id_of(2), id_of(1)]
    assert [hit.score for hit in hits] == pytest.approx([0.8, 0.0], abs=1e-6)


def test_fields_that_are_added_at_once_are_all_kept(store: VectorStore) -> None:
    store.create(SPEC)
    start = threading.Barrier(4)

    def add(writer: int) -> None:
        start.wait()
        for number in range(5):
            store.add_fields("things", {f"key{writer}-{number}": FieldType.STRING})

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(add, range(4)))
    assert len(store.describe("things").fields) == 20


def test_words_find_what_shares_them_and_rare_ones_weigh_more(store: VectorStore) -> None:
    points = [point(n, [1, 0, 0, 0], {7: 1.0}) for n in range(1, 9)]
    points.append(point(9, [0, 1, 0, 0], {7: 1.0, 8: 1.0}))
    points.append(point(10, [0, 1, 0, 0], {9: 1.0}))
    fill(store, points)
    hits = store.nearest("things", SparseVector((7, 8), (1.0, 1.0)), 20, EVERYTHING)
    assert hits[0].id == id_of(9)
    assert id_of(10) not in [hit.id for hit in hits]
    # ln((10 - 9 + .5) / (9 + .5) + 1) for word 7, ln((10 - 1 + .5) / (1 + .5) + 1) for word 8
    assert hits[0].score == pytest.approx(0.1466 + 1.9924, abs=1e-3)
    assert hits[1].score == pytest.approx(0.1466, abs=1e-3)


def test_writing_the_same_id_again_replaces_the_point(store: VectorStore) -> None:
    fill(store, [point(1, [1, 0, 0, 0], metadata={"team": "hr"})])
    store.upsert("things", [point(1, [0, 1, 0, 0], metadata={"team": "it"})], "abc")
    assert store.count("things", EVERYTHING) == 1
    hit = store.nearest("things", np.asarray([0, 1, 0, 0], dtype=np.float32), 1, EVERYTHING, True)[0]
    assert hit.payload["metadata"] == {"team": "it"}
    assert hit.vector is not None
    assert hit.vector.tolist() == [0, 1, 0, 0]


def test_ids_narrow_a_search(store: VectorStore) -> None:
    fill(store, [point(n, [1, n, 0, 0]) for n in range(1, 6)])
    query = np.asarray([1, 0, 0, 0], dtype=np.float32)
    hits = store.nearest("things", query, 10, EVERYTHING, ids=[id_of(5), id_of(3)])
    assert [hit.id for hit in hits] == [id_of(3), id_of(5)]


def test_scrolling_walks_every_point_once_in_order_of_id(store: VectorStore) -> None:
    fill(store, [point(n, [1, n, 0, 0]) for n in (5, 3, 1, 4, 2)])
    seen: list[str] = []
    after = None
    while page := store.scroll("things", EVERYTHING, 2, after):
        assert len(page) <= 2
        seen += [found.id for found in page]
        after = page[-1].id
    assert seen == [id_of(n) for n in range(1, 6)]


def test_deleting_counts_what_it_removed(store: VectorStore) -> None:
    fill(store, [point(n, [1, n, 0, 0]) for n in range(1, 6)])
    assert store.delete("things", one_of("document_id", ["d1", "d2", "unknown"])) == 2
    assert store.delete("things", one_of("document_id", ["d1"])) == 0
    assert store.count("things", EVERYTHING) == 3


FILTERS: list[tuple[Filter, set[int]]] = [
    (equals("metadata.team", "hr"), {1, 2, 5}),
    (Comparison("metadata.team", Op.NE, ("hr",)), {3, 4}),
    (one_of("metadata.team", ["it", "law"]), {3, 5}),
    (Comparison("metadata.team", Op.NIN, ("it", "hr")), {4}),
    (equals("metadata.year", 2024), {2}),
    (equals("metadata.year", 2023.5), {3}),
    (one_of("metadata.year", [2024, 2023.5]), {2, 3}),
    (Comparison("metadata.year", Op.GT, (2023,)), {2, 3}),
    (Comparison("metadata.year", Op.GTE, (2023,)), {1, 2, 3}),
    (Comparison("metadata.year", Op.LT, (2023.5,)), {1}),
    (Comparison("metadata.year", Op.LTE, (2023.5,)), {1, 3}),
    (equals("metadata.open", True), {1}),
    (Comparison("metadata.open", Op.NE, (True,)), {2, 3, 4, 5}),
    (And((equals("metadata.team", "hr"), equals("metadata.year", 2024))), {2}),
    (Or((equals("metadata.team", "it"), equals("metadata.open", True))), {1, 3}),
    (Not(Or((equals("metadata.team", "it"), equals("metadata.open", True)))), {2, 4, 5}),
    (equals("tenant", "bob"), {6}),
]


def test_filters_mean_the_same_in_every_store(store: VectorStore) -> None:
    metadata: list[dict[str, object]] = [
        {"team": "hr", "year": 2023, "open": True},
        {"team": "hr", "year": 2024, "open": False},
        {"team": "it", "year": 2023.5},
        {},
        {"team": ["hr", "law"]},
    ]
    points = [point(n, [1, n, 0, 0], {1: 1.0}, metadata=m) for n, m in enumerate(metadata, start=1)]
    fill(store, [*points, point(6, [1, 6, 0, 0], {1: 1.0}, tenant="bob", metadata={"team": "x"})])
    for condition, expected in FILTERS:
        where = condition if condition == equals("tenant", "bob") else And((EVERYTHING, condition))
        ids = {id_of(n) for n in expected}
        dense = store.nearest("things", np.ones(4, dtype=np.float32), 10, where)
        sparse = store.nearest("things", SparseVector((1,), (1.0,)), 10, where)
        assert {hit.id for hit in dense} == ids, condition
        assert {hit.id for hit in sparse} == ids, condition
        assert {found.id for found in store.scroll("things", where, 10)} == ids, condition
        assert store.count("things", where) == len(ids), condition


def test_another_collection_takes_the_place_of_one_at_once(store: VectorStore) -> None:
    fill(store, [point(1, [1, 0, 0, 0])])
    wider = CollectionSpec("things-new", 3, "other", "def")
    store.create(wider)
    store.add_fields("things-new", {"area": FieldType.STRING})
    store.upsert("things-new", [point(2, [1, 0, 0]), point(3, [0, 1, 0])], "def")
    store.swap("things", "things-new")
    info = store.describe("things")
    assert info.spec == CollectionSpec("things", 3, "other", "def")
    assert (dict(info.fields), info.num_points) == ({"area": FieldType.STRING}, 2)
    hits = store.nearest("things", np.asarray([1, 0, 0], dtype=np.float32), 1, EVERYTHING)
    assert [hit.id for hit in hits] == [id_of(2)]
    # What it was is there until it is dropped.
    assert store.describe("things-new").spec == replace(SPEC, name="things-new")
    assert [found.id for found in store.scroll("things-new", None, 10)] == [id_of(1)]
    store.drop("things-new")
    assert store.names() == ["things"]
    assert store.count("things", EVERYTHING) == 2


def test_vectors_of_another_embedder_are_refused_also_just_after_an_exchange(store: VectorStore) -> None:
    fill(store, [point(1, [1, 0, 0, 0])])
    store.describe("things")
    # By another process, of which this one knows nothing.
    other = ServerStore(store._client) if isinstance(store, ServerStore) else store
    other.create(replace(SPEC, name="things-new", embedder="tuned", fingerprint="def"))
    other.swap("things", "things-new")
    with pytest.raises(Conflict, match=r"tuned \(def\).*another \(abc\).*migrate") as refused:
        store.upsert("things", [point(2, [1, 0, 0, 0])], "abc")
    assert refused.value.code == "embedder_mismatch"
    assert store.count("things", EVERYTHING) == 0
    store.upsert("things", [point(2, [1, 0, 0, 0])], "def")
    assert store.count("things", EVERYTHING) == 1


def test_a_process_that_ends_after_an_exchange_leaves_the_new_collection(tmp_path: Path) -> None:
    store = EdgeStore(tmp_path)
    fill(store, [point(1, [1, 0, 0, 0])])
    fill(store, [point(2, [1, 0, 0, 0])], replace(SPEC, name="things-new"))
    store.swap("things", "things-new")
    store.close()
    store = EdgeStore(tmp_path)
    assert store.names() == ["things"]
    assert [found.id for found in store.scroll("things", None, 10)] == [id_of(2)]
    assert len(list((tmp_path / "things").glob("shard-*"))) == 1
    store.close()


def test_scrolling_everything_gives_the_vectors_back(store: VectorStore) -> None:
    fill(store, [point(1, [0.6, 0.8, 0, 0]), point(2, [1, 0, 0, 0], tenant="bob")])
    found = store.scroll("things", None, 10, with_vectors=True)
    assert [record.id for record in found] == [id_of(1), id_of(2)]
    assert found[0].vector == pytest.approx(np.asarray([0.6, 0.8, 0, 0]))


@pytest.mark.parametrize("vector", [[0, 0, 0, 0], [float("nan"), 0, 0, 1], [float("inf"), 0, 0, 0]])
def test_a_vector_without_direction_never_becomes_a_point(vector: list[float]) -> None:
    with pytest.raises(DataError, match="chunk 0 of document 'd1'"):
        point(1, vector)


def test_of_two_that_make_a_collection_on_a_server_at_once_both_have_the_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    client = QdrantClient(":memory:")
    first, second = ServerStore(client), ServerStore(client)
    make = second._create

    def make_late(target: str, spec: CollectionSpec) -> None:
        make(target, spec)
        fill(first, [point(1, [1, 0, 0, 0])])

    monkeypatch.setattr(second, "_create", make_late)
    with pytest.raises(Conflict):
        second.create(SPEC)
    assert second.count("things", EVERYTHING) == 1
    assert len(client.get_collections().collections) == 1


def test_the_settings_lay_out_new_collections_of_a_server(monkeypatch: pytest.MonkeyPatch) -> None:
    clients, asked = [], {}
    create = QdrantClient.create_collection

    def connect(**options: object) -> QdrantClient:
        clients.append(options)
        return QdrantClient(":memory:")

    def remember(self: QdrantClient, name: str, **layout: Any) -> bool:
        asked.update(layout)
        return create(self, name, **layout)

    monkeypatch.setattr("retrieval.server_store.QdrantClient", connect)
    monkeypatch.setattr(QdrantClient, "create_collection", remember)
    chosen = Settings(
        qdrant_url="http://qdrant",
        qdrant_api_key="secret",
        qdrant_grpc_port=6334,
        qdrant_shards=6,
        qdrant_replicas=2,
        qdrant_quantize=True,
        qdrant_on_disk=True,
    )
    ServerStore.from_settings(chosen).create(SPEC)
    assert (clients[0]["url"], clients[0]["api_key"]) == ("http://qdrant", "secret")
    assert (clients[0]["prefer_grpc"], clients[0]["grpc_port"]) == (True, 6334)
    assert (asked["shard_number"], asked["replication_factor"]) == (6, 2)
    assert asked["quantization_config"].scalar.always_ram
    assert asked["vectors_config"]["dense"].on_disk
    ServerStore.from_settings(Settings(qdrant_url="http://qdrant")).create(SPEC)
    assert not clients[1]["prefer_grpc"]
    assert (asked["shard_number"], asked["quantization_config"]) == (None, None)


class Answer(grpc.RpcError):
    """A failed call over gRPC."""

    def __init__(self, code: grpc.StatusCode) -> None:
        self.code = lambda: code
        self.details = lambda: "collection already exists"


@pytest.mark.parametrize(
    ("code", "kind", "words"),
    [
        (grpc.StatusCode.UNAUTHENTICATED, StoreUnavailable, "refuses our key"),
        (grpc.StatusCode.NOT_FOUND, NotFound, "no collection 'things'"),
        (grpc.StatusCode.UNAVAILABLE, StoreUnavailable, "does not answer"),
    ],
)
def test_failures_over_grpc_are_told_as_those_over_http(
    code: grpc.StatusCode, kind: type[HamletError], words: str
) -> None:
    def fail() -> None:
        raise Answer(code)

    with pytest.raises(kind, match=words):
        ServerCalls(wait_s=0.0)("things", fail)


def test_a_server_that_says_how_long_to_wait_is_waited_for_that_long(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr("tenacity.nap.time.sleep", slept.append)
    faults = [ResourceExhaustedResponse("too many writes", 3), Answer(grpc.StatusCode.UNAVAILABLE)]

    def fail() -> str:
        if faults:
            raise faults.pop(0)
        return "done"

    assert ServerCalls(wait_s=0.01)("things", fail) == "done"
    assert slept[0] == 3
    assert slept[1] < 1


def test_a_collection_that_a_lost_answer_made_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    create = QdrantClient.create_collection

    def lose(self: QdrantClient, name: str, **layout: Any) -> bool:
        create(self, name, **layout)
        raise Answer(grpc.StatusCode.ALREADY_EXISTS)

    monkeypatch.setattr(QdrantClient, "create_collection", lose)
    store = ServerStore(QdrantClient(":memory:"))
    store.create(SPEC)
    assert store.names() == ["things"]


def test_the_memory_plan_counts_the_links_that_collections_have() -> None:
    assert HNSW_LINKS == HNSW_M
