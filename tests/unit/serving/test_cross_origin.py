"""Calls of web pages of other origins, as browsers make them."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError
from starlette.testclient import TestClient

from cluster.api_keys import make_key
from serving.authentication import Gate, Keyring
from serving.config import RouterConfig, ServingConfig
from serving.scripted_engine import ScriptedEngine
from serving.scripted_parts import ScriptedApplication

CHAT = "/v1/chat/completions"
APP, OTHER = "https://app.example.org", "https://other.example.org"
ALLOWED = "access-control-allow-origin"


def _client(world: ScriptedApplication, *allowed: str) -> TestClient:
    world.config = ServingConfig(router=RouterConfig(allowed_origins=allowed))
    return TestClient(world.app)


def _preflight(client: TestClient, origin: str) -> Any:
    asked = {
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization,content-type,x-stainless-lang",
        "access-control-request-private-network": "true",
    }
    return client.options(CHAT, headers={"origin": origin, **asked})


def _ask(client: TestClient, origin: str, **changes: Any) -> Any:
    body = {"model": "smollm2", "messages": [{"role": "user", "content": "Hi"}], **changes}
    return client.post(CHAT, json=body, headers={"origin": origin})


def test_an_allowed_page_may_ask_whatever_headers_its_client_sends(world: ScriptedApplication) -> None:
    world.gate = Gate(Keyring(lambda: [make_key("ann")[0]]))  # browsers ask beforehand without a key
    answer = _preflight(_client(world, APP), APP)
    assert answer.status_code == 200
    assert answer.headers[ALLOWED] == APP
    assert "POST" in answer.headers["access-control-allow-methods"]
    assert "x-stainless-lang" in answer.headers["access-control-allow-headers"]
    assert answer.headers["access-control-allow-private-network"] == "true"


@pytest.mark.parametrize("changes", [{}, {"stream": True}, {"n": 0}, {"model": "unknown"}])
def test_answers_streams_and_errors_can_be_read_by_an_allowed_page(
    world: ScriptedApplication, changes: dict[str, Any]
) -> None:
    answer = _ask(_client(world, OTHER, APP), APP, **changes)
    assert answer.headers[ALLOWED] == APP
    assert "Origin" in answer.headers["vary"]
    exposed = answer.headers["access-control-expose-headers"].split(", ")
    assert {"x-request-id", "retry-after", "x-should-retry", "x-ratelimit-reset-tokens"} <= set(exposed)
    assert "access-control-allow-credentials" not in answer.headers


def test_refusals_of_the_door_and_faults_of_ours_can_be_read_too(world: ScriptedApplication) -> None:
    def broken(*_: object) -> list[str]:
        raise ZeroDivisionError

    world.engine = ScriptedEngine(script=broken)
    client = _client(world, APP)
    fault = _ask(client, APP)
    unknown = client.get("/v2", headers={"origin": APP})
    world.gate = Gate(Keyring(lambda: [make_key("ann")[0]]))
    keyless = _ask(_client(world, APP), APP)
    assert [answer.status_code for answer in (fault, unknown, keyless)] == [500, 404, 401]
    assert {answer.headers[ALLOWED] for answer in (fault, unknown, keyless)} == {APP}


def test_another_page_is_refused(world: ScriptedApplication) -> None:
    client = _client(world, APP)
    assert _preflight(client, OTHER).status_code == 400
    for answer in (_preflight(client, OTHER), _ask(client, OTHER), _ask(client, "null")):
        assert ALLOWED not in answer.headers


def test_by_default_no_page_is_allowed(world: ScriptedApplication) -> None:
    client = _client(world)
    for answer in (_preflight(client, APP), _ask(client, APP)):
        assert not [name for name in answer.headers if name.startswith("access-control-")]


def test_all_pages_may_be_allowed_and_none_of_them_with_cookies(world: ScriptedApplication) -> None:
    client = _client(world, "*")
    for answer in (_preflight(client, OTHER), _ask(client, OTHER)):
        assert answer.status_code == 200
        assert answer.headers[ALLOWED] == "*"
        assert "access-control-allow-credentials" not in answer.headers


@pytest.mark.parametrize(
    ("origins", "message"),
    [
        (["app.example.org"], "'app.example.org' would equal no browser's origin"),
        (["https://app.example.org/"], "without a path or a slash at the end"),
        (["https://App.example.org"], "small letters"),
        (["https://*.example.org"], "would equal no browser's origin"),
        (["null"], "would equal no browser's origin"),
        (["*", APP], r"\* stands for every origin"),
    ],
)
def test_what_would_equal_no_origin_is_refused(origins: list[str], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        RouterConfig.model_validate({"allowed_origins": origins})


@pytest.mark.parametrize(
    "origin", [APP, "http://localhost:5173", "http://[::1]:8080", "chrome-extension://abcdef", "*"]
)
def test_origins_as_browsers_send_them_are_taken(origin: str) -> None:
    assert RouterConfig.model_validate({"allowed_origins": [origin]}).allowed_origins == (origin,)
