"""The header Idempotency-Key by the real `openai` client, whose answers get lost on their way."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx
import openai
import pytest
from starlette.testclient import TestClient

from cluster.api_keys import make_key
from serving.authentication import Gate, Keyring
from serving.config import BatchesConfig, FineTuningConfig, LimitsConfig, ServingConfig
from serving.platform import Platform
from serving.scripted_parts import ScriptedApplication
from serving.training_commands import TrainingCommands

ROWS = b"row\n" * 60
ONCE = {"Idempotency-Key": "order-1"}


class PlayedTraining(TrainingCommands):
    """Takes every file. The real command starts a process of some seconds."""

    def validate(self, path: Any, filename: str) -> dict[str, Any]:
        return {"rows": 60, "task": "sft"}


@pytest.fixture
def application() -> ScriptedApplication:
    """One of each kind fills its project, but for stores, of which there may be any number."""
    config = ServingConfig(
        fine_tuning=FineTuningConfig(launcher="local", max_waiting_per_tenant=1),
        batches=BatchesConfig(max_waiting_per_tenant=1),
        limits=LimitsConfig(storage_bytes_per_tenant=2 * len(ROWS)),
    )
    world = ScriptedApplication(config=config, platform=Platform.of(config, PlayedTraining()))
    world.search_for_real()
    return world


@pytest.fixture
def client(application: ScriptedApplication) -> TestClient:
    return TestClient(application.app)


def upload(client: TestClient, purpose: str, headers: dict[str, str], content: bytes = ROWS) -> Any:
    form: Any = {"files": {"file": ("rows.jsonl", content)}, "data": {"purpose": purpose}}
    return client.post("/v1/files", **form, headers=headers)


class Asked:
    """A creation of each kind, and a request that differs in one thing."""

    def __init__(self, client: TestClient) -> None:
        self._client = client
        self.training, self.rows = (
            upload(client, purpose, {}).json()["id"] for purpose in ("fine-tune", "batch")
        )
        self._store = client.post("/v1/vector_stores", json={}).json()["id"]

    def send(self, kind: str, headers: dict[str, str] = ONCE, **changes: Any) -> Any:
        paths_and_bodies: dict[str, tuple[str, dict[str, Any]]] = {
            "job": ("fine_tuning/jobs", {"model": "smollm2", "training_file": self.training}),
            "batch": (
                "batches",
                {
                    "input_file_id": self.rows,
                    "endpoint": "/v1/embeddings",
                    "completion_window": "24h",
                },
            ),
            "store": ("vector_stores", {"name": "handbook", "file_ids": [self.rows]}),
            "file batch": (f"vector_stores/{self._store}/file_batches", {"file_ids": [self.rows]}),
        }
        path, body = paths_and_bodies[kind]
        return self._client.post(f"/v1/{path}", json=body | changes, headers=headers)


CHANGES: dict[str, dict[str, Any]] = {
    "job": {"hyperparameters": {"n_epochs": 2}},
    "batch": {"metadata": {"team": "search"}},
    "store": {"name": "leave"},
    "file batch": {"attributes": {"year": 2026}},
}


@pytest.mark.parametrize("kind", CHANGES)
def test_a_repeat_is_answered_with_what_the_first_made_and_other_content_is_refused(
    kind: str, client: TestClient
) -> None:
    asked = Asked(client)
    first = asked.send(kind)
    assert first.status_code == 200
    # What it was made of is gone, and its project is full: neither counts for a repeat.
    for file_id in (asked.training, asked.rows):
        client.delete(f"/v1/files/{file_id}")
    again = asked.send(kind)
    assert (again.status_code, again.json()) == (200, first.json())
    refused = asked.send(kind, **CHANGES[kind])
    assert refused.status_code == 422
    assert refused.json()["error"]["param"] == "Idempotency-Key"
    assert refused.json()["error"]["code"] == "idempotency_key_reused"


def test_a_repeated_upload_takes_no_room_and_one_of_other_bytes_is_refused(client: TestClient) -> None:
    first, again = (upload(client, "fine-tune", ONCE) for _ in range(2))
    assert (again.status_code, again.json()) == (200, first.json())
    assert upload(client, "fine-tune", {}).status_code == 200  # there was room for one more
    assert upload(client, "fine-tune", ONCE).json() == first.json()  # and there is none now
    for other in (
        upload(client, "fine-tune", ONCE, ROWS[:-1] + b"!"),
        upload(client, "batch", ONCE),
    ):
        assert other.status_code == 422
        assert "Idempotency-Key" in other.json()["error"]["message"]
    assert client.get(f"/v1/files/{first.json()['id']}/content").content == ROWS


def test_a_store_is_answered_as_it_is_now(client: TestClient) -> None:
    asked = Asked(client)
    store_id = asked.send("store").json()["id"]
    client.post(f"/v1/vector_stores/{store_id}", json={"name": "renamed"})
    again = asked.send("store").json()
    assert (again["id"], again["name"]) == (store_id, "renamed")
    client.delete(f"/v1/vector_stores/{store_id}")
    refused = asked.send("store")
    assert (refused.status_code, refused.headers["x-should-retry"]) == (409, "false")


def test_a_file_batch_under_one_key_belongs_to_one_store(client: TestClient) -> None:
    asked = Asked(client)
    assert asked.send("file batch").status_code == 200
    other = client.post("/v1/vector_stores", json={}).json()["id"]
    body = {"file_ids": [asked.rows]}
    refused = client.post(f"/v1/vector_stores/{other}/file_batches", json=body, headers=ONCE)
    assert refused.status_code == 422


def test_the_key_of_another_project_is_of_no_effect(application: ScriptedApplication) -> None:
    made = {tenant: make_key(tenant, ["admin"]) for tenant in ("ann", "bob")}
    application.gate = Gate(Keyring(lambda: [key for key, _ in made.values()]))
    ids = {
        TestClient(application.app, headers={"authorization": f"Bearer {secret}"})
        .post("/v1/vector_stores", json={"name": tenant}, headers=ONCE)
        .json()["id"]
        for tenant, (_, secret) in made.items()
    }
    assert len(ids) == 2


@pytest.mark.parametrize("name", ["", "x" * 256])
def test_a_header_that_is_empty_or_too_long_is_refused_by_its_name(name: str, client: TestClient) -> None:
    headers = {"Idempotency-Key": name}
    for refused in (
        upload(client, "user_data", headers),
        client.post("/v1/vector_stores", json={}, headers=headers),
    ):
        assert refused.status_code == 400
        assert refused.json()["error"]["param"] == "Idempotency-Key"
    assert client.post("/v1/vector_stores", json={}, headers={"Idempotency-Key": "x" * 255}).is_success


class LosingAnswers(httpx.BaseTransport):
    """Sends every request, and loses every first answer to it: the connection is cut after the commit."""

    def __init__(self, send: Callable[[httpx.Request], httpx.Response]) -> None:
        self._send = send
        self.num_lost = 0

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        request.read()
        answer = self._send(request)
        if request.headers["x-stainless-retry-count"] == "0":
            self.num_lost += 1
            raise httpx.ReadError("the connection was cut")
        return httpx.Response(answer.status_code, content=answer.content, headers=answer.headers)


def test_the_retries_of_the_openai_client_make_one_object_where_the_answer_was_lost(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)
    losing = LosingAnswers(
        lambda request: client.request(
            request.method, str(request.url), content=request.content, headers=request.headers
        )
    )
    api = openai.OpenAI(
        base_url="http://testserver/v1", api_key="none", http_client=httpx.Client(transport=losing)
    )
    form: Any = {"file": ("rows.jsonl", ROWS), "purpose": "fine-tune"}
    file = api.files.create(**form, extra_headers=ONCE)
    job = api.fine_tuning.jobs.create(model="smollm2", training_file=file.id, extra_headers=ONCE)
    assert losing.num_lost == 2
    assert [listed.id for listed in api.files.list().data] == [file.id]
    assert [listed.id for listed in api.fine_tuning.jobs.list().data] == [job.id]


def test_the_document_names_the_header_where_it_is_heeded(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    described = {
        path: parameter
        for path, methods in document["paths"].items()
        for operation in methods.values()
        for parameter in operation.get("parameters", [])
        if parameter["name"] == "Idempotency-Key"
    }
    assert sorted(described) == [
        "/v1/batches",
        "/v1/files",
        "/v1/fine_tuning/jobs",
        "/v1/vector_stores",
        "/v1/vector_stores/{vector_store_id}/file_batches",
    ]
    for parameter in described.values():
        assert (parameter["in"], parameter["required"]) == ("header", False)
        assert '"maxLength": 255' in json.dumps(parameter["schema"])
