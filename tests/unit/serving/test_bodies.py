"""What callers send that is no sensible request: each kind is refused with a sentence, on every route."""

from __future__ import annotations

import asyncio
import gzip
import itertools
import json
from typing import Any

import pytest
from fastapi.routing import APIRoute
from sqlalchemy.exc import DataError
from starlette.testclient import TestClient

from cluster.errors import InvalidInput
from serving.bodies import MAX_DEPTH, require_sound
from serving.config import FineTuningConfig, ServingConfig
from serving.platform import Platform
from serving.scripted_parts import ScriptedApplication

NO_JSON = {
    "empty": b"",
    "cut off": b'{"model": "smo',
    "no UTF-8": b'{"model": "\xff\xfe"}',
    "a null": b"null",
    "a list": b"[]",
    "a text": b'"x"',
    "thousands of digits": b'{"model": ' + b"9" * 5000 + b"}",
    "thousands of levels": b"[" * 5_000,
    "half a character": b'{"model": "\\ud800"}',
    "half a character as a name": b'{"\\udfff": 1}',
    "no number": b'{"model": NaN}',
    "an endless number": b'{"model": 1e400}',
    "many levels": b'{"model": ' + b"[" * 200 + b"]" * 200 + b"}",
}


@pytest.fixture
def client() -> TestClient:
    config = ServingConfig(fine_tuning=FineTuningConfig(launcher="local"))
    world = ScriptedApplication(config=config, platform=Platform.of(config))
    return TestClient(world.app)


def test_a_body_that_is_no_json_is_a_400_on_every_route(client: TestClient) -> None:
    routes = [route for route in client.app.routes if isinstance(route, APIRoute) and route.body_field]
    assert len(routes) > 12
    headers = {"content-type": "application/json"}
    for route, (kind, body) in itertools.product(routes, NO_JSON.items()):
        (method,) = route.methods
        answer = client.request(method, route.path, content=body, headers=headers)
        assert answer.status_code == 400, (route.path, kind, answer.text)
        error = answer.json()["error"]
        assert error["type"] == "invalid_request_error"
        assert "no such path" not in error["message"], kind


@pytest.mark.parametrize("media_type", [None, "text/plain", "application/x-www-form-urlencoded"])
def test_json_that_is_sent_as_something_else_is_answered_with_what_to_send(
    client: TestClient, media_type: str | None
) -> None:
    headers = {"content-type": media_type} if media_type else {}
    answer = client.post("/v1/embeddings", content=b'{"model": "minilm", "input": "x"}', headers=headers)
    assert answer.status_code == 415
    assert "Content-Type: application/json" in answer.json()["error"]["message"]
    assert (media_type or "no type") in answer.json()["error"]["message"]


def test_json_of_any_charset_that_python_detects_is_read(client: TestClient) -> None:
    headers = {"content-type": "application/json; charset=utf-8"}
    content = b'\xef\xbb\xbf{"model": "minilm", "input": "x"}'
    assert client.post("/v1/embeddings", content=content, headers=headers).status_code == 200


def test_a_compressed_body_is_answered_with_what_to_send(client: TestClient) -> None:
    headers = {"content-type": "application/json", "content-encoding": "gzip"}
    answer = client.post("/v1/embeddings", content=gzip.compress(b"{}"), headers=headers)
    assert answer.status_code == 415
    assert "gzip" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("method", "path", "param"),
    [
        ("GET", "/v1/files?limit=x", "limit"),
        ("GET", "/v1/vector_stores?order=up", "order"),
        ("PUT", "/v1/aliases/UPPER", "alias"),
    ],
)
def test_a_fault_in_the_address_is_named_as_the_caller_wrote_it(
    client: TestClient, method: str, path: str, param: str
) -> None:
    answer = client.request(method, path, json={"model": "smollm2"} if method == "PUT" else None)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param


@pytest.mark.parametrize("is_declared", [True, False])
def test_a_body_longer_than_is_read_is_a_413(client: TestClient, is_declared: bool) -> None:
    pieces = [b'{"model": "smollm2", "prompt": "', *[b"x" * 1024**2] * 9, b'"}']
    content = b"".join(pieces) if is_declared else iter(pieces)
    answer = client.post("/v1/completions", content=content, headers={"content-type": "application/json"})
    assert answer.status_code == 413
    error = answer.json()["error"]
    assert (error["type"], error["code"]) == ("invalid_request_error", "body_too_large")
    assert "8 MiB" in error["message"]


def test_a_body_that_says_it_is_too_long_is_refused_before_it_is_sent(client: TestClient) -> None:
    sent: list[Any] = []

    async def never() -> Any:
        raise AssertionError("read")

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"content-type", b"application/json"), (b"content-length", b"99999999")]
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/v1/completions",
        "headers": headers,
        "query_string": b"",
    }
    asyncio.run(client.app(scope, never, send))
    assert sent[0]["status"] == 413


@pytest.mark.parametrize(
    ("value", "param", "word"),
    [
        ({"messages": [{"content": "\ud83d"}]}, "messages[0].content", "surrogate"),
        ({"metadata": {"a\udfff": 1}}, "metadata", "surrogate"),
        ({"weights": {"speed": float("inf")}}, "weights.speed", "no number in JSON"),
        ({"attributes": {"size": 2**63}}, "attributes.size", "64 bits"),
        ({"attributes": {"size": -(2**63) - 1}}, "attributes.size", "64 bits"),
        ({"prompt": [[1, 2], [3, 2**63]]}, "prompt[1][1]", "64 bits"),
    ],
)
def test_what_cannot_be_kept_is_named(value: Any, param: str, word: str) -> None:
    with pytest.raises(InvalidInput, match=word) as caught:
        require_sound(value)
    assert caught.value.param == param


def test_sound_token_ids_are_not_looked_at_one_by_one_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    names = []

    def named(value: object, param: str = "", depth: int = 0, *, is_kept: bool = False) -> None:
        names.append(param)
        require_sound(value, param, depth, is_kept=is_kept)

    monkeypatch.setattr("serving.bodies.require_sound", named)
    require_sound({"prompt": [[1, 2, 3], [4, 5, 6]]})
    assert names == ["prompt", "prompt[0]", "prompt[1]"]


def test_what_can_be_kept_passes_to_the_last_bit_and_level() -> None:
    deep: Any = "👍🏽\u0000"
    for _ in range(MAX_DEPTH):
        deep = [deep]
    require_sound(deep)
    require_sound({"a": 2**63 - 1, "b": -(2**63), "c": 1e308, "d": None, "e": True})
    with pytest.raises(InvalidInput, match="levels deep"):
        require_sound([deep])


def test_a_nul_may_be_asked_about_and_not_kept(client: TestClient) -> None:
    require_sound({"input": "a\0b"})
    for path, body in (
        ("/v1/vector_stores", {"metadata": {"team": "a\0"}}),
        ("/v1/vector_stores", {"name": "a\0"}),
        ("/v1/vector_stores/vs_1/files", {"file_id": "file-1", "attributes": {"a\0": "x"}}),
        ("/v1/fine_tuning/jobs", {"model": "smollm2", "training_file": "f", "metadata": {"team": "\0"}}),
        ("/v1/evaluations", {"name": "a\0", "questions": "f", "cells": {"plain": "smollm2"}}),
    ):
        answer = client.post(path, json=body)
        assert (answer.status_code, "NUL" in answer.text) == (400, True), answer.text


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/vector_stores", {"file_ids": [""]}),
        ("/v1/vector_stores/vs_1/file_batches", {"file_ids": [""]}),
        ("/v1/vector_stores/vs_1/files", {"file_id": ""}),
    ],
)
def test_an_empty_id_is_a_400(client: TestClient, path: str, body: dict[str, Any]) -> None:
    answer = client.post(path, json=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"].startswith("file_id")


@pytest.mark.parametrize("prompt", ["x", ["x", "y"]])
def test_a_fault_of_a_completion_is_told_as_it_is(client: TestClient, prompt: Any) -> None:
    body = {"model": "smollm2", "prompt": prompt, "max_tokens": 2**63 - 1}
    answer = client.post("/v1/completions", json=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "context_length_exceeded"


@pytest.mark.parametrize(
    ("path", "methods"),
    [("/v1/files", "GET, POST"), ("/v1/vector_stores/vs_1", "DELETE, GET, POST"), ("/v1/rerank", "POST")],
)
def test_a_method_that_a_path_has_not_is_answered_with_those_it_has(
    client: TestClient, path: str, methods: str
) -> None:
    answer = client.patch(path)
    assert (answer.status_code, answer.headers["allow"]) == (405, methods)
    assert answer.json()["error"]["code"] == "unknown_url"


def test_a_deep_json_schema_for_an_answer_is_a_400(client: TestClient) -> None:
    schema = json.loads('{"a":' * 300 + "{}" + "}" * 300)
    shape = {"type": "json_schema", "json_schema": {"name": "deep", "schema": schema}}
    body = {"model": "smollm2", "messages": [{"role": "user", "content": "Hi"}], "response_format": shape}
    answer = client.post("/v1/chat/completions", json=body)
    assert answer.status_code == 400
    assert "levels deep" in answer.json()["error"]["message"]


def test_a_value_that_the_database_cannot_hold_is_a_400(client: TestClient) -> None:
    def look_up() -> None:  # as PostgreSQL answers to a NUL in an id
        raise DataError("SELECT", {}, ValueError("PostgreSQL text fields cannot contain NUL (0x00) bytes"))

    client.app.add_api_route("/v1/models-of", look_up)
    answer = client.get("/v1/models-of")
    assert (answer.status_code, "NUL" in answer.json()["error"]["message"]) == (400, True)
