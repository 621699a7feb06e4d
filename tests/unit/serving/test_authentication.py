from __future__ import annotations

import asyncio
from typing import Any

import pytest
from starlette.testclient import TestClient

from cluster.api_keys import ApiKey, Area, make_key
from cluster.audit_log import AuditEvent
from cluster.errors import Unavailable
from serving.authentication import Access, Gate, Keyring, access_of, is_loopback, is_public
from serving.config import LimitsConfig
from serving.limits import Limits
from serving.scripted_parts import ScriptedApplication

CHAT = {"model": "smollm2", "messages": [{"role": "user", "content": "Hi"}]}


def bearer(secret: str) -> dict[str, str]:
    return {"authorization": f"Bearer {secret}"}


@pytest.fixture
def made() -> tuple[ApiKey, str]:
    return make_key("ann", ["inference"])


@pytest.fixture
def client(world: ScriptedApplication, made: tuple[ApiKey, str]) -> TestClient:
    world.gate = Gate(Keyring(lambda: [made[0]]))
    return TestClient(world.app)


def test_a_valid_key_is_let_in(client: TestClient, made: tuple[ApiKey, str]) -> None:
    assert client.post("/v1/chat/completions", json=CHAT, headers=bearer(made[1])).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": "Bearer "},
        {"authorization": "Bearer sk-hamlet-wrong"},
        {"authorization": "Basic abc"},
        {"authorization": b"Bearer \xff\xfe"},
    ],
)
def test_everything_else_is_a_401_in_openais_shape(client: TestClient, headers: dict[str, Any]) -> None:
    response = client.post("/v1/chat/completions", json=CHAT, headers=headers)
    assert response.status_code == 401
    error = response.json()["error"]
    assert (error["code"], error["type"]) == ("invalid_api_key", "invalid_request_error")
    assert response.headers["www-authenticate"] == "Bearer"
    assert response.headers["x-request-id"]


def test_expired_and_revoked_keys_are_refused_and_keep_the_door_shut(world: ScriptedApplication) -> None:
    ended, secret = make_key("ann", expires_at=1.0)
    world.gate = Gate(Keyring(lambda: [ended]))
    client = TestClient(world.app)
    assert client.get("/v1/models", headers=bearer(secret)).status_code == 401
    assert client.get("/v1/models").status_code == 401


def test_a_scope_that_is_missing_is_a_403_that_names_it(client: TestClient, made: tuple[ApiKey, str]) -> None:
    response = client.get("/v1/cluster", headers=bearer(made[1]))
    assert response.status_code == 200
    response = client.post("/v1/unheard-of", headers=bearer(made[1]))
    assert response.status_code == 403
    assert "admin" in response.json()["error"]["message"]


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/", "/page/main.js", "/openapi.json"])
def test_probes_and_the_page_need_no_key(client: TestClient, path: str) -> None:
    assert client.get(path).status_code == 200


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/", "/page/main.js"])
def test_probes_may_ask_for_the_head_alone(client: TestClient, path: str) -> None:
    assert client.head(path).status_code == 200
    assert client.put(path).headers["allow"] == "GET, HEAD"


@pytest.mark.parametrize("path", ["/v1/models", "/v1", "/reports", "//", "/healthz/", "/page"])
def test_no_other_path_is_public(path: str) -> None:
    assert not is_public(path)


@pytest.mark.parametrize(
    ("method", "path", "access"),
    [
        ("POST", "/v1/chat/completions", Access(Area.INFERENCE, True)),
        ("GET", "/v1/files/file-1/content", Access(Area.FILES, False)),
        ("DELETE", "/v1/models/ft:x", Access(Area.FINE_TUNING, True)),
        ("GET", "/v1/models", Access(None, False)),
        ("POST", "/v1/vector_stores/vs_1/search", Access(Area.VECTOR_STORES, False)),
        ("POST", "/v1/vector_stores/search", Access(Area.VECTOR_STORES, False)),
        ("DELETE", "/v1/vector_stores/vs_1/files/search", Access(Area.VECTOR_STORES, True)),
        ("POST", "/v1/files/search", Access(Area.FILES, True)),
        ("GET", "/v1/something-new", Access(Area.ADMIN, False)),
    ],
)
def test_each_call_needs_the_scope_of_its_area(method: str, path: str, access: Access) -> None:
    assert access_of(method, path) == access


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("localhost", True),
        ("::1", True),
        ("0.0.0.0", False),
        ("10.0.0.7", False),
        ("", False),
    ],
)
def test_only_this_machine_reaches_a_loopback_address(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback


def test_without_keys_only_a_loopback_address_answers(world: ScriptedApplication) -> None:
    statuses = {}
    for host, allow in (("127.0.0.1", False), ("0.0.0.0", False), ("0.0.0.0", True)):
        world.gate = Gate(host=host, allow_no_keys=allow)
        statuses[host, allow] = TestClient(world.app).get("/v1/models")
    assert [response.status_code for response in statuses.values()] == [200, 401, 200]
    assert "keys create" in statuses["0.0.0.0", False].json()["error"]["message"]


def test_a_key_made_now_works_and_one_revoked_now_ends_within_the_time_to_live() -> None:
    keys: list[ApiKey] = []
    now = [100.0]
    ring = Keyring(lambda: list(keys), ttl_s=1.0, clock=lambda: now[0])
    key, secret = make_key("ann")

    async def main() -> list[bool]:
        seen = [await ring.find(secret) is not None]
        keys.append(key)
        now[0] += 0.06  # far within the time to live
        seen.append(await ring.find(secret) is not None)
        keys.clear()
        now[0] += 0.5
        seen.append(await ring.find(secret) is not None)
        now[0] += 0.6
        seen.append(await ring.find(secret) is not None)
        return seen

    assert asyncio.run(main()) == [False, True, True, False]


def test_a_revoked_key_ends_also_when_the_clock_was_set_back() -> None:
    key, secret = make_key("ann")
    keys, now = [key], [10_000.0]
    ring = Keyring(lambda: list(keys), ttl_s=1.0, clock=lambda: now[0])

    async def main() -> list[bool]:
        seen = [await ring.find(secret) is not None]
        keys.clear()
        now[0] -= 3600
        return [*seen, await ring.find(secret) is not None]

    assert asyncio.run(main()) == [True, False]


def test_guessed_keys_cause_few_reads() -> None:
    reads = [0]
    now = [100.0]

    def read() -> list[ApiKey]:
        reads[0] += 1
        return [make_key("ann")[0]]

    ring = Keyring(read, ttl_s=1.0, clock=lambda: now[0])

    async def main() -> None:
        for number in range(1000):
            now[0] += 0.001
            assert await ring.find(f"sk-guess-{number}") is None

    asyncio.run(main())
    assert reads[0] <= 21


def test_a_database_that_is_down_is_a_503(world: ScriptedApplication) -> None:
    def read() -> list[ApiKey]:
        raise Unavailable("the state database does not answer")

    world.gate = Gate(Keyring(read))
    response = TestClient(world.app).get("/v1/models")
    assert response.status_code == 503
    assert "retry-after" in response.headers


def test_limits_refuse_with_429_and_say_what_is_left(
    world: ScriptedApplication, made: tuple[ApiKey, str]
) -> None:
    limits = Limits(LimitsConfig(requests_per_minute_per_key=2, tokens_per_minute_per_key=10_000))
    world.gate = Gate(Keyring(lambda: [made[0]]), limits)
    client = TestClient(world.app)
    answers = [client.post("/v1/chat/completions", json=CHAT, headers=bearer(made[1])) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert int(answers[0].headers["x-ratelimit-remaining-requests"]) == 1
    assert int(answers[2].headers["retry-after"]) >= 1
    assert answers[2].headers["x-ratelimit-remaining-requests"] == "0"
    assert "x-should-retry" not in answers[2].headers
    spent = 10_000 - int(answers[1].headers["x-ratelimit-remaining-tokens"])
    assert spent == pytest.approx(answers[0].json()["usage"]["total_tokens"], abs=20)


def test_a_streams_tokens_are_counted_too(world: ScriptedApplication, made: tuple[ApiKey, str]) -> None:
    limits = Limits(LimitsConfig(tokens_per_minute_per_key=3))
    world.gate = Gate(Keyring(lambda: [made[0]]), limits)
    client = TestClient(world.app)
    body = CHAT | {"stream": True}
    assert client.post("/v1/chat/completions", json=body, headers=bearer(made[1])).status_code == 200
    assert client.post("/v1/chat/completions", json=body, headers=bearer(made[1])).status_code == 429


def test_what_changes_state_stands_in_the_audit_log_and_what_reads_does_not(
    world: ScriptedApplication,
) -> None:
    events: list[AuditEvent] = []
    key, secret = make_key("ann", ["admin"])
    world.gate = Gate(Keyring(lambda: [key]), audit=events.append)
    client = TestClient(world.app)
    client.get("/v1/models", headers=bearer(secret))
    client.post("/v1/chat/completions", json=CHAT, headers=bearer(secret))
    assert events == []
    response = client.delete("/v1/models/ft:x", headers=bearer(secret))
    (event,) = events
    assert (event.tenant, event.actor, event.action) == ("ann", key.id, "DELETE /v1/models/ft:x")
    assert event.status == response.status_code >= 400
    assert event.request_id == response.headers["x-request-id"]


def test_an_answer_arrives_although_the_audit_log_is_down(world: ScriptedApplication) -> None:
    def audit(_: AuditEvent) -> None:
        raise Unavailable("the audit log cannot be written")

    key, secret = make_key("ann", ["admin"])
    world.gate = Gate(Keyring(lambda: [key]), audit=audit)
    response = TestClient(world.app).delete("/v1/models/ft:x", headers=bearer(secret))
    assert response.status_code in (404, 405)
    assert response.json()["error"]
