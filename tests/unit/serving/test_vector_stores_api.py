from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import fsspec
import openai
import pytest
from sqlalchemy import event
from starlette.testclient import TestClient

from cluster.files import Files
from cluster.settings import settings
from retrieval.client import CollectionsClient
from retrieval.config import retrieval_config
from retrieval.documents import Content, Document, Section
from retrieval.edge_store import EdgeStore
from retrieval.ingest import Ingestor
from retrieval.migrate import migrate
from retrieval.owner import InProcess
from retrieval.readers import read_document
from retrieval.service import Collections
from retrieval.store import Point
from retrieval.vectorizer import HashEmbedder
from serving.answers import NOTHING_FOUND, STILL_READING
from serving.config import FineTuningConfig, ServingConfig
from serving.platform import Platform
from serving.scripted_parts import ScriptedApplication
from serving.vector_store_requests import rewritten

LEAVE = "# Leave\n\nEvery employee has 27 days of leave in a year."
CANTEEN = "# Canteen\n\nLunch is served at noon, and costs 4.70 euros."
STORES = "/v1/vector_stores"


@pytest.fixture
def world() -> ScriptedApplication:
    config = ServingConfig(fine_tuning=FineTuningConfig(launcher="local"))
    application = ScriptedApplication(config=config, platform=Platform.of(config))
    application.search_for_real()
    return application


@pytest.fixture
def client(world: ScriptedApplication) -> TestClient:
    return TestClient(world.app)


@pytest.fixture
def upload(world: ScriptedApplication) -> Callable[..., str]:
    assert world.platform is not None
    files = Files(world.platform.engine)

    def make(content: str | bytes, name: str = "a.md", tenant: str = "default") -> str:
        data = content.encode() if isinstance(content, str) else content
        return files.add(files.stored(tenant, name, "assistants", data)).id

    return make


@pytest.fixture
def read_all(world: ScriptedApplication) -> Callable[[], None]:
    """Read whatever waits."""
    worker = world.worker()

    def work() -> None:
        while worker.run_one():
            pass
        worker.optimize()

    return work


@pytest.fixture
def handbook(client: TestClient, upload: Callable[..., str], read_all: Callable[[], None]) -> dict[str, str]:
    """A store of two files: its id and theirs."""
    files = {"leave": upload(LEAVE, "leave.md"), "canteen": upload(CANTEEN, "canteen.md")}
    store = client.post(STORES, json={"name": "handbook"}).json()["id"]
    for team, file_id in (("hr", files["leave"]), ("office", files["canteen"])):
        body = {"file_id": file_id, "attributes": {"team": team, "year": 2024}}
        assert client.post(f"{STORES}/{store}/files", json=body).status_code == 200
    read_all()
    return files | {"store": store}


def search(client: TestClient, store: str, query: Any, **options: Any) -> Any:
    response = client.post(f"{STORES}/{store}/search", json={"query": query, **options})
    assert response.status_code == 200, response.text
    return response.json()


def test_a_file_is_in_progress_until_it_is_read_and_then_found(
    client: TestClient, upload: Callable[..., str], read_all: Callable[[], None]
) -> None:
    file_id = upload(LEAVE, "leave.md")
    store = client.post(STORES, json={"name": "handbook", "file_ids": [file_id]}).json()
    assert store["status"] == "in_progress"
    assert search(client, store["id"], "days of leave")["data"] == []
    read_all()
    store = client.get(f"{STORES}/{store['id']}").json()
    assert (store["status"], store["file_counts"]["completed"]) == ("completed", 1)
    assert store["usage_bytes"] > len(LEAVE)
    (result,) = search(client, store["id"], "How many days of leave?")["data"]
    assert (result["file_id"], result["filename"]) == (file_id, "leave.md")
    assert 0 < result["score"] <= 1
    assert "27 days" in result["content"][0]["text"]


def test_a_search_says_on_request_why_each_chunk_was_found(
    client: TestClient, handbook: dict[str, str]
) -> None:
    plain = search(client, handbook["store"], "days of leave")
    assert "hamlet" not in plain
    assert "hamlet" not in plain["data"][0]
    page = search(client, handbook["store"], "days of leave", hamlet={"explain": True})
    first = page["data"][0]["hamlet"]
    assert first["scores"].keys() == {"dense", "sparse", "fused", "reranked"}
    assert first["scores"]["fused"] == 1.0
    assert first["scores"]["reranked"] is None
    assert LEAVE[first["start"] : first["end"]] == page["data"][0]["content"][0]["text"]
    assert {"embed", "dense", "bm25", "fuse"} <= page["hamlet"]["stage_ms"].keys()


def test_results_are_narrowed_by_attributes_thresholds_and_numbers(
    client: TestClient, handbook: dict[str, str]
) -> None:
    store = handbook["store"]
    office = {"type": "eq", "key": "team", "value": "office"}
    both = {"type": "and", "filters": [office, {"type": "gte", "key": "year", "value": 2024}]}
    for raw in (office, both):
        found = search(client, store, "leave", filters=raw)["data"]
        assert [result["file_id"] for result in found] == [handbook["canteen"]]
        assert found[0]["attributes"] == {"team": "office", "year": 2024}
    assert len(search(client, store, "leave", max_num_results=1)["data"]) == 1
    strict = search(client, store, "leave of the year", ranking_options={"score_threshold": 0.2})["data"]
    assert [result["file_id"] for result in strict] == [handbook["leave"]]
    assert all(result["score"] >= 0.2 for result in strict)
    response = client.post(
        f"{STORES}/{store}/search",
        json={"query": "x", "filters": {"type": "eq", "key": "tem", "value": "hr"}},
    )
    assert response.status_code == 400
    assert "known attributes: team, year" in response.json()["error"]["message"]


def test_an_unknown_reranker_is_refused_by_the_name_of_its_field(
    client: TestClient, handbook: dict[str, str]
) -> None:
    body = {"query": "xyzzy", "hamlet": {"rerank": "nonesuch"}}
    response = client.post(f"{STORES}/{handbook['store']}/search", json=body)
    assert (response.status_code, response.json()["error"]["param"]) == (404, "hamlet.rerank")


def test_several_queries_are_answered_together(client: TestClient, handbook: dict[str, str]) -> None:
    page = search(client, handbook["store"], ["days of leave", "lunch at noon"])
    assert page["search_query"] == ["days of leave", "lunch at noon"]
    assert {result["file_id"] for result in page["data"]} == {handbook["leave"], handbook["canteen"]}
    polite = search(client, handbook["store"], "Could you tell me the days of leave?", rewrite_query=True)
    assert polite["search_query"] == ["the days of leave"]


@pytest.mark.parametrize(
    ("query", "bare"),
    [
        ("Hi, could you please tell me what lunch costs? Thanks!", "what lunch costs"),
        ("I would like to know about parental leave", "parental leave"),
        ("What does lunch cost?", "What does lunch cost"),
        ("thank you", "thank you"),
        ("hello", "hello"),
    ],
)
def test_courtesy_is_not_searched_for(query: str, bare: str) -> None:
    assert rewritten(query) == bare


def test_new_attributes_count_at_once_and_need_no_embedding(
    client: TestClient, handbook: dict[str, str]
) -> None:
    store, leave = handbook["store"], handbook["leave"]
    path = f"{STORES}/{store}/files/{leave}"
    assert client.post(path, json={"attributes": {"team": "people", "open": True}}).json()["attributes"] == {
        "team": "people",
        "open": True,
    }
    for value, expected in (("people", [leave]), ("hr", [])):
        raw = {"type": "eq", "key": "team", "value": value}
        response = client.post(f"{STORES}/{store}/search", json={"query": "leave", "filters": raw})
        assert [result["file_id"] for result in response.json()["data"]] == expected
    raw = {"type": "eq", "key": "open", "value": True}
    assert [r["file_id"] for r in search(client, store, "leave", filters=raw)["data"]] == [leave]


def meanwhile(
    world: ScriptedApplication, monkeypatch: pytest.MonkeyPatch, ask: Callable[[TestClient], object]
) -> None:
    """Let another client ask once, between the reading of chunks for new attributes and their writing."""
    write = world.collections.upsert
    waiting = [ask]

    def late(collection: str, points: Sequence[Point], fingerprint: str) -> None:
        while waiting:
            thread = threading.Thread(target=waiting.pop(), args=(TestClient(world.app),))
            thread.start()
            thread.join()
        write(collection, points, fingerprint)

    monkeypatch.setattr(world.collections, "upsert", late)


def test_a_file_removed_while_its_attributes_change_leaves_no_chunk(
    client: TestClient,
    handbook: dict[str, str],
    world: ScriptedApplication,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = f"{STORES}/{handbook['store']}/files/{handbook['leave']}"
    meanwhile(world, monkeypatch, lambda other: other.delete(path))
    assert client.post(path, json={"attributes": {"team": "people"}}).status_code == 404
    assert world.collections.count("vector-stores-default") == 1
    assert [r["file_id"] for r in search(client, handbook["store"], "leave")["data"]] == [handbook["canteen"]]


def test_of_two_changes_that_cross_the_chunks_have_the_later_one(
    client: TestClient,
    handbook: dict[str, str],
    world: ScriptedApplication,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = f"{STORES}/{handbook['store']}/files/{handbook['leave']}"
    meanwhile(world, monkeypatch, lambda other: other.post(path, json={"attributes": {"team": "late"}}))
    assert client.post(path, json={"attributes": {"team": "early"}}).status_code == 200
    assert client.get(path).json()["attributes"] == {"team": "late"}
    raw = {"type": "eq", "key": "team", "value": "late"}
    found = search(client, handbook["store"], "leave", filters=raw)["data"]
    assert [result["file_id"] for result in found] == [handbook["leave"]]


def test_the_files_of_a_store_are_not_counted_to_add_list_or_change_one(
    client: TestClient, world: ScriptedApplication, handbook: dict[str, str], upload: Callable[..., str]
) -> None:
    assert world.platform is not None
    statements: list[str] = []
    event.listen(
        world.platform.engine, "before_cursor_execute", lambda _c, _cur, sql, *_: statements.append(sql)
    )
    files = f"{STORES}/{handbook['store']}/files"
    for ask in (
        lambda: client.post(files, json={"file_id": upload("More.", "more.md")}),
        lambda: client.get(files, params={"limit": 1}),
        lambda: client.post(f"{files}/{handbook['leave']}", json={"attributes": {"year": 2025}}),
    ):
        assert ask().status_code == 200
    assert [sql for sql in statements if "sum(vector_store_files" in sql] == []
    assert client.get(f"{STORES}/{handbook['store']}").json()["file_counts"]["total"] == 3
    assert [sql for sql in statements if "sum(vector_store_files" in sql]


def test_a_removed_file_leaves_no_chunk_behind(
    client: TestClient, handbook: dict[str, str], world: ScriptedApplication
) -> None:
    store, leave = handbook["store"], handbook["leave"]
    assert client.delete(f"{STORES}/{store}/files/{leave}").json()["deleted"] is True
    assert client.get(f"{STORES}/{store}/files/{leave}").status_code == 404
    assert world.collections.count("vector-stores-default") == 1
    assert client.get(f"/v1/files/{leave}").status_code == 200
    assert client.delete(f"{STORES}/{store}").json() == {
        "id": store,
        "object": "vector_store.deleted",
        "deleted": True,
    }
    assert world.collections.count("vector-stores-default") == 0
    assert client.get(f"{STORES}/{store}").status_code == 404


def test_the_same_file_in_two_stores_is_removed_from_one(
    client: TestClient, handbook: dict[str, str], read_all: Callable[[], None]
) -> None:
    other = client.post(STORES, json={"file_ids": [handbook["leave"]]}).json()["id"]
    read_all()
    client.delete(f"{STORES}/{handbook['store']}")
    assert [r["file_id"] for r in search(client, other, "leave")["data"]] == [handbook["leave"]]


def test_a_deleted_file_is_found_no_more(
    client: TestClient, handbook: dict[str, str], read_all: Callable[[], None], world: ScriptedApplication
) -> None:
    client.delete(f"/v1/files/{handbook['leave']}")
    world.worker()._queue.sweep()
    assert [r["file_id"] for r in search(client, handbook["store"], "leave")["data"]] == [handbook["canteen"]]
    read_all()
    assert world.collections.count("vector-stores-default") == 1


@pytest.mark.parametrize(
    ("content", "name", "code", "words"),
    [
        (b"", "empty.txt", "invalid_file", "empty"),
        (b"\x00\x01\x02", "a.bin", "unsupported_file", "no reader"),
        (b"%PDF-1.4 broken", "a.pdf", "invalid_file", "a.pdf"),
    ],
)
def test_a_file_that_cannot_be_read_says_why_and_leaves_no_chunk(
    client: TestClient,
    upload: Callable[..., str],
    read_all: Callable[[], None],
    content: bytes,
    name: str,
    code: str,
    words: str,
) -> None:
    file_id = upload(content, name)
    store = client.post(STORES, json={"file_ids": [file_id]}).json()["id"]
    read_all()
    file = client.get(f"{STORES}/{store}/files/{file_id}").json()
    assert (file["status"], file["last_error"]["code"]) == ("failed", code)
    assert words in file["last_error"]["message"]
    assert client.get(f"{STORES}/{store}").json()["file_counts"]["failed"] == 1
    assert client.get(f"{STORES}/{store}/files/{file_id}/content").json()["data"] == []


def test_reading_a_file_from_elsewhere_leaves_no_copy_on_the_machine_that_reads(
    client: TestClient,
    upload: Callable[..., str],
    read_all: Callable[[], None],
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HAMLET_STORAGE", "memory://handbooks")
    settings.cache_clear()
    file_ids = [upload(LEAVE, "leave.md"), upload(CANTEEN, "canteen.md")]
    memory: Any = fsspec.filesystem("memory")
    for path in memory.find("/handbooks/files"):
        if file_ids[1] in path:
            memory.rm_file(path)
    store = client.post(STORES, json={"file_ids": file_ids}).json()["id"]
    before = set((home / "cache" / "data").rglob("file-*"))
    read_all()
    listed = {file["id"]: file for file in client.get(f"{STORES}/{store}/files").json()["data"]}
    assert listed[file_ids[0]]["status"] == "completed"
    assert set((home / "cache" / "data").rglob("file-*")) == before
    error = listed[file_ids[1]]["last_error"]
    assert error["code"] == "invalid_file"
    assert error["message"] == f"the bytes of {file_ids[1]} are missing in storage; upload the file again"


def test_content_is_the_chunks_in_their_order(
    client: TestClient, upload: Callable[..., str], read_all: Callable[[], None]
) -> None:
    text = " ".join(f"word{number}" for number in range(600))
    file_id = upload(text, "long.txt")
    strategy = {"type": "static", "static": {"max_chunk_size_tokens": 100, "chunk_overlap_tokens": 0}}
    store = client.post(STORES, json={"file_ids": [file_id], "chunking_strategy": strategy}).json()["id"]
    read_all()
    file = client.get(f"{STORES}/{store}/files/{file_id}").json()
    assert file["chunking_strategy"] == strategy
    page = client.get(f"{STORES}/{store}/files/{file_id}/content").json()
    assert len(page["data"]) == 6
    assert " ".join(part["text"] for part in page["data"]) == text


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("", {"file_ids": ["file-unknown"]}, "file_id"),
        ("", {"expires_after": {"anchor": "created_at", "days": 1}}, "expires_after.anchor"),
        ("", {"expires_after": {"anchor": "last_active_at", "days": 0}}, "expires_after.days"),
        ("", {"metadata": {str(n): "x" for n in range(17)}}, "metadata"),
        ("", {"nmae": "x"}, "nmae"),
        ("/files", {"file_id": "FILE", "attributes": {"a": "x" * 513}}, "attributes"),
        ("/files", {"file_id": "FILE", "attributes": {"a": None}}, "attributes.a"),
        (
            "/files",
            {
                "file_id": "FILE",
                "chunking_strategy": {
                    "type": "static",
                    "static": {"max_chunk_size_tokens": 4000, "chunk_overlap_tokens": 0},
                },
            },
            "chunking_strategy.static.max_chunk_size_tokens",
        ),
        ("/file_batches", {}, "body"),
        ("/search", {"query": ""}, "query"),
        ("/search", {"query": ["a", " "]}, "query[1]"),
        ("/search", {"query": "x", "max_num_results": 51}, "max_num_results"),
        (
            "/search",
            {"query": "x", "ranking_options": {"score_threshold": 2}},
            "ranking_options.score_threshold",
        ),
    ],
)
def test_a_bad_request_names_its_field(
    client: TestClient, handbook: dict[str, str], path: str, body: dict[str, Any], param: str
) -> None:
    if "file_id" in body:
        body = body | {"file_id": handbook["leave"]}
    url = f"{STORES}/{handbook['store']}{path}" if path else STORES
    response = client.post(url, json=body)
    assert response.status_code == (404 if param == "file_id" else 400), response.text
    assert (response.json()["error"]["param"] or "").startswith(param), response.text


@pytest.mark.parametrize("field", ["file_ids", "files"])
def test_an_unknown_file_among_many_names_the_field_of_all(client: TestClient, field: str) -> None:
    store = client.post(STORES, json={}).json()["id"]
    named: Any = ["file-0"] if field == "file_ids" else [{"file_id": "file-0"}]
    asked = [(f"{STORES}/{store}/file_batches", {field: named})]
    asked += [(STORES, {field: named})] if field == "file_ids" else []
    for path, body in asked:
        answer = client.post(path, json=body)
        assert (answer.status_code, answer.json()["error"]["param"]) == (404, field)


def test_an_expired_store_is_shown_and_answers_no_search(
    client: TestClient, handbook: dict[str, str], world: ScriptedApplication, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = f"{STORES}/{handbook['store']}"
    changed = client.post(path, json={"expires_after": {"anchor": "last_active_at", "days": 1}}).json()
    assert changed["expires_at"] == changed["last_active_at"] + 86_400
    assert world.platform is not None
    with world.platform.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE vector_stores SET last_active_at = 1")
    assert client.get(path).json()["status"] == "expired"
    response = client.post(f"{path}/search", json={"query": "leave"})
    assert (response.status_code, response.json()["error"]["code"]) == (409, "vector_store_expired")


def test_collections_of_the_command_line_are_stores_to_list_and_search(
    client: TestClient, world: ScriptedApplication
) -> None:
    collections = CollectionsClient(InProcess(world.collections))
    ingestor = Ingestor(collections, HashEmbedder(), retrieval_config(collection="manuals"))
    ingestor.add([read_document(LEAVE.encode(), "docs/leave.md", "docs/leave.md", {"team": "hr"})])
    (store,) = client.get(STORES).json()["data"]
    assert (store["id"], store["name"], store["file_counts"]["completed"]) == ("vs_manuals", "manuals", 1)
    assert client.get(f"{STORES}/vs_manuals").json() == store
    raw = {"type": "eq", "key": "team", "value": "hr"}
    (result,) = search(client, "vs_manuals", "days of leave", filters=raw)["data"]
    assert (result["file_id"], result["filename"]) == ("docs/leave.md", "leave.md")
    assert result["attributes"] == {"team": "hr"}
    for method, path in (("DELETE", ""), ("POST", "/files")):
        response = client.request(method, f"{STORES}/vs_manuals{path}", json={"file_id": "x"})
        assert (response.status_code, response.json()["error"]["code"]) == (409, "vector_store_read_only")
    (document,) = client.get(f"{STORES}/vs_manuals/files").json()["data"]
    assert (document["id"], document["attributes"]) == ("docs/leave.md", {"team": "hr"})
    assert document["chunking_strategy"] == {"type": "other"}
    assert client.get(f"{STORES}/vs_unknown").status_code == 404
    assert client.get(f"{STORES}/vs_vector-stores-default").status_code == 404


@pytest.fixture
def manuals(world: ScriptedApplication) -> list[str]:
    """The ids of the documents in a collection of the command line, sorted."""
    collections = CollectionsClient(InProcess(world.collections))
    ingestor = Ingestor(collections, HashEmbedder(), retrieval_config(collection="manuals"))
    ids = [f"docs/{number}.md" for number in range(5)]
    ingestor.add([read_document(f"About leave, part {id_}.".encode(), id_, id_) for id_ in ids])
    return ids


def test_a_collection_of_another_embedder_with_as_long_vectors_is_refused(
    client: TestClient, world: ScriptedApplication, manuals: list[str]
) -> None:
    messages = [{"role": "user", "content": "How many days of leave?"}]
    body = {"model": "smollm2+rag", "messages": messages, "hamlet": {"collection": "manuals"}}
    assert client.post("/v1/chat/completions", json=body).status_code == 200
    assert search(client, "vs_manuals", "leave")["data"]
    migrate(CollectionsClient(InProcess(world.collections)), "manuals", HashEmbedder(name="tuned"))
    for path, asked in (("/v1/chat/completions", body), (f"{STORES}/vs_manuals/search", {"query": "leave"})):
        response = client.post(path, json=asked)
        assert (response.status_code, response.json()["error"]["code"]) == (409, "embedder_mismatch")
        assert "tuned-64" in response.json()["error"]["message"]
        assert "hash-64" in response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("options", "expected", "has_more"),
    [
        ({}, [4, 3, 2, 1, 0], False),
        ({"order": "asc", "limit": 2}, [0, 1], True),
        ({"order": "asc", "after": 2}, [3, 4], False),
        ({"order": "desc", "after": 2}, [1, 0], False),
        ({"order": "asc", "before": 3, "limit": 2}, [1, 2], True),
        ({"order": "desc", "before": 3}, [4], False),
        ({"filter": "completed", "limit": 1}, [4], True),
        ({"filter": "failed"}, [], False),
    ],
)
def test_documents_of_a_collection_are_listed_as_files_are(
    client: TestClient, manuals: list[str], options: dict[str, Any], expected: list[int], has_more: bool
) -> None:
    cursors = {name: manuals[options[name]] for name in ("after", "before") if name in options}
    page = client.get(f"{STORES}/vs_manuals/files", params=options | cursors).json()
    assert [file["id"] for file in page["data"]] == [manuals[index] for index in expected]
    assert page["has_more"] is has_more


@pytest.mark.parametrize("cursor", ["after", "before"])
def test_an_unknown_cursor_among_documents_is_not_found(
    client: TestClient, manuals: list[str], cursor: str
) -> None:
    response = client.get(f"{STORES}/vs_manuals/files", params={cursor: "nonsense"})
    assert (response.status_code, response.json()["error"]["param"]) == (404, cursor)


def test_a_search_of_a_collection_does_not_read_its_documents(
    client: TestClient, manuals: list[str], world: ScriptedApplication, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("every document is read to search some")

    monkeypatch.setattr(world.collections, "documents", refuse)
    assert {result["file_id"] for result in search(client, "vs_manuals", "leave")["data"]} == set(manuals)
    assert client.get(f"{STORES}/vs_manuals").json()["file_counts"]["completed"] == len(manuals)


@pytest.mark.parametrize("name", ["vector-stores-default", "nothing"])
def test_a_chat_cannot_search_or_find_out_collections_by_name(
    client: TestClient, manuals: list[str], handbook: dict[str, str], name: str
) -> None:
    message = {"role": "user", "content": "How many days of leave?"}
    body = {"model": "smollm2+rag", "messages": [message], "hamlet": {"collection": name}}
    refused = client.post("/v1/chat/completions", json=body)
    assert (refused.status_code, refused.json()["error"]["code"]) == (404, "collection_not_found")
    assert "manuals" not in refused.text


def test_a_crafted_name_is_not_found_and_the_collection_answers_afterwards(
    world: ScriptedApplication, tmp_path: Path
) -> None:
    root = tmp_path / "collections"
    before = CollectionsClient(InProcess(Collections(EdgeStore(root))))
    ingestor = Ingestor(before, HashEmbedder(), retrieval_config(collection="manuals"))
    ingestor.add([read_document(LEAVE.encode(), "docs/leave.md", "docs/leave.md", {"team": "hr"})])
    before.close()
    world.collections = Collections(EdgeStore(root))
    world.search_for_real()
    fresh = TestClient(world.app)
    for name in ("manuals/../manuals", "x" * 300):
        for asked in (
            chat(fresh, {"vector_store_ids": [f"vs_{name}"]}),
            fresh.post(
                "/v1/chat/completions",
                json={
                    "model": "smollm2+rag",
                    "messages": [{"role": "user", "content": "How many days of leave?"}],
                    "hamlet": {"collection": name},
                },
            ),
        ):
            assert asked.status_code == 404, asked.text
            assert str(root) not in asked.text
    assert fresh.get(f"{STORES}/vs_{'x' * 300}").status_code == 404
    assert search(fresh, "vs_manuals", "days of leave")["data"]
    raw = {"type": "eq", "key": "team", "value": ["hr"]}
    refused = fresh.post(f"{STORES}/vs_manuals/search", json={"query": "leave", "filters": raw})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "filters.value")


# Long lists.


@pytest.mark.parametrize("order", ["desc", "asc"])
def test_a_list_goes_on_behind_what_was_deleted_and_ends_with_the_collections(
    client: TestClient, world: ScriptedApplication, order: Literal["asc", "desc"]
) -> None:
    ingestor = Ingestor(
        CollectionsClient(InProcess(world.collections)),
        HashEmbedder(),
        retrieval_config(collection="manuals"),
    )
    ingestor.add([read_document(LEAVE.encode(), "docs/leave.md", "docs/leave.md")])
    service = openai.OpenAI(api_key="-", base_url=f"{client.base_url}/v1", http_client=client)
    made = [service.vector_stores.create(name=str(number)).id for number in range(25)]
    expected = [*(made if order == "asc" else reversed(made)), "vs_manuals"]
    for limit in (1, 7, 19, 20, 25, 26):
        pages = list(service.vector_stores.list(limit=limit, order=order).iter_pages())
        assert [store.id for page in pages for store in page.data] == expected
        assert max(len(page.data) for page in pages) <= limit
    seen = []
    for store in service.vector_stores.list(order=order):
        seen.append(store.id)
        if store.id != "vs_manuals":
            service.vector_stores.delete(store.id)
    assert seen == expected
    assert [store.id for store in service.vector_stores.list()] == ["vs_manuals"]


def test_files_are_deleted_while_they_are_listed(
    client: TestClient, upload: Callable[..., str], read_all: Callable[[], None]
) -> None:
    service = openai.OpenAI(api_key="-", base_url=f"{client.base_url}/v1", http_client=client)
    files = [upload(f"{LEAVE} {number}") for number in range(7)]
    store = service.vector_stores.create(file_ids=files).id
    seen = []
    for file in service.vector_stores.files.list(store, limit=2, filter="in_progress", order="asc"):
        seen.append(file.id)
        if len(seen) == 2:
            read_all()  # the cursor is none of the files that are listed any more, and there are no others
            break
    for listed in service.vector_stores.files.list(store, limit=3, order="asc"):
        service.vector_stores.files.delete(listed.id, vector_store_id=store)
        read_all()
        seen.append(listed.id)
    assert seen == [*files[:2], *files]
    cursor = client.get(f"{STORES}/{store}/files?after={files[1]}&filter=in_progress")
    assert (cursor.status_code, cursor.json()["data"]) == (200, [])
    assert client.get(f"{STORES}/{store}/files?after=file-of-nobody").status_code == 404
    assert {file.id for file in service.files.list(limit=2) if service.files.delete(file.id).deleted} == set(
        files
    )


# Chats that answer from stores.


def chat(client: TestClient, tool: dict[str, Any], **changes: Any) -> Any:
    body = {
        "model": "smollm2",
        "messages": [{"role": "user", "content": "How many days of leave has every employee in a year?"}],
        "tools": [{"type": "file_search", **tool}],
        **changes,
    }
    return client.post("/v1/chat/completions", json=body)


def test_a_chat_answers_from_the_stores_it_names_with_citations(
    client: TestClient, handbook: dict[str, str], world: ScriptedApplication
) -> None:
    world.engine.script = ["You get 27 days [1]."]
    body = chat(client, {"vector_store_ids": [handbook["store"]], "max_num_results": 1}).json()
    assert body["hamlet"]["route"] == "rag"
    (annotation,) = body["choices"][0]["message"]["annotations"]
    assert annotation["file_citation"]["file_id"] == handbook["leave"]
    assert annotation["file_citation"]["filename"] == "leave.md"
    assert [hit["file_id"] for hit in body["hamlet"]["hits"]] == [handbook["leave"]]


def test_a_chats_filters_and_thresholds_hold(client: TestClient, handbook: dict[str, str]) -> None:
    office = {"type": "eq", "key": "team", "value": "office"}
    tool = {"vector_store_ids": [handbook["store"]], "filters": office}
    low = {"ranking_options": {"score_threshold": 0.0}}
    hits = chat(client, tool | low).json()["hamlet"]["hits"]
    assert {hit["file_id"] for hit in hits} <= {handbook["canteen"]}
    high = {"ranking_options": {"score_threshold": 0.99}}
    assert chat(client, tool | high).json()["choices"][0]["message"]["content"] == NOTHING_FOUND
    assert chat(client, tool, tool_choice="none").json()["hamlet"]["route"] == "plain"


@pytest.mark.parametrize("model", ["smollm2", "smollm2+rag", "auto"])
def test_a_chat_during_reading_says_so_instead_of_answering_without_sources(
    client: TestClient, upload: Callable[..., str], read_all: Callable[[], None], model: str
) -> None:
    store = client.post(STORES, json={"file_ids": [upload(LEAVE)]}).json()["id"]
    answer = chat(client, {"vector_store_ids": [store]}, model=model).json()
    assert answer["choices"][0]["message"]["content"] == STILL_READING
    assert answer["hamlet"]["route"] == "rag"
    read_all()
    assert len(chat(client, {"vector_store_ids": [store]}, model=model).json()["hamlet"]["hits"]) == 1


def test_equal_pages_are_cited_each_by_its_number(client: TestClient, world: ScriptedApplication) -> None:
    texts = [f"Page {number} tells of subject{number}." for number in range(1, 14)]
    texts[2] = texts[8] = "Every employee has 27 days of leave in a year."
    starts = [sum(len(text) + 1 for text in texts[:index]) for index in range(13)]
    sections = tuple(
        Section(start, start + len(text), page=page)
        for page, (start, text) in enumerate(zip(starts, texts, strict=True), start=1)
    )
    document = Document("manual", "Manual", "manual.pdf", Content("\n".join(texts), sections))
    collections = CollectionsClient(InProcess(world.collections))
    ingestor = Ingestor(collections, HashEmbedder(), retrieval_config(collection="manuals"))
    ingestor.add([document])
    assert collections.count("manuals") == 13
    world.engine.script = ["You get 27 days [1], as said twice [2]."]
    body = chat(client, {"vector_store_ids": ["vs_manuals"], "max_num_results": 2}).json()
    cited = [
        annotation["file_citation"]["page"] for annotation in body["choices"][0]["message"]["annotations"]
    ]
    assert sorted(cited) == [3, 9]
    assert [hit["page"] for hit in body["hamlet"]["hits"]] == cited


@pytest.mark.parametrize("asks_in_a_chat", [True, False])
def test_a_store_that_is_used_does_not_expire(
    client: TestClient, handbook: dict[str, str], world: ScriptedApplication, asks_in_a_chat: bool
) -> None:
    assert world.platform is not None
    with world.platform.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE vector_stores SET last_active_at = 1")
    if asks_in_a_chat:
        assert chat(client, {"vector_store_ids": [handbook["store"]]}).status_code == 200
    else:
        search(client, handbook["store"], "leave")
    store = client.get(f"{STORES}/{handbook['store']}").json()
    assert store["last_active_at"] >= store["created_at"]


def test_several_stores_and_a_collection_are_searched_together(
    client: TestClient, handbook: dict[str, str], world: ScriptedApplication
) -> None:
    collections = CollectionsClient(InProcess(world.collections))
    ingestor = Ingestor(collections, HashEmbedder(), retrieval_config(collection="manuals"))
    ingestor.add([read_document(LEAVE.encode(), "docs/leave.md", "docs/leave.md")])
    ids = [handbook["store"], "vs_manuals"]
    hits = chat(client, {"vector_store_ids": ids}).json()["hamlet"]["hits"]
    assert {hit["file_id"] for hit in hits} >= {handbook["leave"], "docs/leave.md"}
    assert [hit["score"] for hit in hits] == sorted((hit["score"] for hit in hits), reverse=True)


def test_unknown_stores_and_other_tools_are_refused(client: TestClient, handbook: dict[str, str]) -> None:
    assert chat(client, {"vector_store_ids": ["vs_unknown"]}).status_code == 404
    assert chat(client, {"vector_store_ids": ["vs_unknown"]}, model="auto").status_code == 404
    response = chat(client, {"vector_store_ids": [handbook["store"]]}, tools=[{"type": "web_search"}])
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "tools[0].type"
    assert "file_search" in response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("asked", "status", "param"),
    [
        ({"hamlet": {"collection": "nowhere"}}, 404, "hamlet.collection"),
        ({"hamlet": {"collection": "manuals", "filters": {"tem": "hr"}}}, 400, "hamlet.filters"),
        ({"tools": [{"vector_store_ids": ["vs_unknown"]}]}, 404, "tools[0].vector_store_ids"),
        ({"tools": [{"filters": {"type": "eq", "key": "tem", "value": 1}}]}, 400, "tools[0].filters"),
    ],
)
def test_a_chat_is_told_what_cannot_be_searched_by_the_field_that_it_sent(
    client: TestClient,
    manuals: list[str],
    handbook: dict[str, str],
    asked: dict[str, Any],
    status: int,
    param: str,
) -> None:
    for tool in asked.get("tools", ()):
        tool |= {"type": "file_search", "vector_store_ids": tool.get("vector_store_ids", [handbook["store"]])}
    body = {"model": "smollm2+rag", "messages": [{"role": "user", "content": "How many days?"}]}
    refused = client.post("/v1/chat/completions", json=body | asked)
    assert (refused.status_code, refused.json()["error"]["param"]) == (status, param)


# OpenAI's shapes.


def test_bodies_satisfy_openais_schema(
    client: TestClient, handbook: dict[str, str], validate: Callable[[Any, str], None]
) -> None:
    path, leave = f"{STORES}/{handbook['store']}", handbook["leave"]
    batch = client.post(f"{path}/file_batches", json={"file_ids": [leave]}).json()
    validate(batch, "VectorStoreFileBatchObject")
    validate(client.get(STORES).json(), "ListVectorStoresResponse")
    validate(client.get(f"{STORES}?limit=1&after={handbook['store']}").json(), "ListVectorStoresResponse")
    validate(client.get(path).json(), "VectorStoreObject")
    validate(client.get(f"{path}/files").json(), "ListVectorStoreFilesResponse")
    validate(client.get(f"{path}/file_batches/{batch['id']}/files").json(), "ListVectorStoreFilesResponse")
    validate(client.get(f"{path}/files/{leave}").json(), "VectorStoreFileObject")
    validate(client.get(f"{path}/files/{leave}/content").json(), "VectorStoreFileContentResponse")
    validate(search(client, handbook["store"], "leave"), "VectorStoreSearchResultsPage")
    validate(client.post(f"{path}/file_batches/{batch['id']}/cancel").json(), "VectorStoreFileBatchObject")
    validate(client.delete(f"{path}/files/{leave}").json(), "DeleteVectorStoreFileResponse")
    validate(client.delete(path).json(), "DeleteVectorStoreResponse")
