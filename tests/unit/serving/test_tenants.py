"""What belongs to one tenant does not exist for another, on every route and verb of the application."""

from __future__ import annotations

import asyncio
import importlib.util
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.testclient import TestClient

from cluster.cards import ModelCard

# Tests are no packages: the module beside this one is loaded by its path.
_SPEC = importlib.util.spec_from_file_location("tenants_of_serving", Path(__file__).with_name("tenants.py"))
assert _SPEC is not None
assert _SPEC.loader is not None
tenants: Any = importlib.util.module_from_spec(_SPEC)
sys.modules[_SPEC.name] = tenants
_SPEC.loader.exec_module(tenants)


@pytest.fixture
def two(make_card: Callable[..., ModelCard]) -> Any:
    return tenants.two_tenants(make_card)


def test_every_route_answers_for_anothers_ids_as_for_ids_that_never_were(two: Any) -> None:
    client = TestClient(two.app, headers=two.headers["bob"])
    unknown = two.unknown()
    asked = 0
    for method, path in two.routes():
        theirs = tenants.bodies_of(method, path, two.ids)
        never = tenants.bodies_of(method, path, unknown)
        for body, other in zip(theirs, never, strict=True):
            seen = client.request(method, tenants.filled(path, two.ids), json=body)
            expected = client.request(method, tenants.filled(path, unknown), json=other)
            answer = tenants.told(seen.status_code, seen.text, two.ids)
            assert answer == tenants.told(expected.status_code, expected.text, unknown), (method, path, body)
            assert tenants.SECRET not in seen.text, (method, path)
            if "{" in path:
                assert seen.status_code in (400, 404), (method, path, seen.text)
            asked += 1
    assert asked > 50


def test_lists_show_the_owner_what_they_hide_from_others(two: Any) -> None:
    paths = [path for method, path in two.routes() if method == "GET" and "{" not in path]
    shown = set()
    for path in paths:
        mine = TestClient(two.app, headers=two.headers["ann"]).get(path)
        theirs = TestClient(two.app, headers=two.headers["bob"]).get(path)
        assert (mine.status_code, theirs.status_code) == (200, 200), path
        shown |= {name for name, value in two.ids.items() if value in mine.text}
        assert not any(value in theirs.text for value in two.ids.values()), path
    # Batches alone are in no list.
    assert shown == two.ids.keys() - {"batch_id"}


def test_the_owner_finds_each_object_so_the_comparison_is_no_empty_one(two: Any) -> None:
    client = TestClient(two.app, headers=two.headers["ann"])
    for method, path in two.routes():
        if method == "GET" and "{" in path and not path.startswith(("/reports", "/v1/evaluations")):
            assert client.get(tenants.filled(path, two.ids)).status_code == 200, path
    found = client.post(f"/v1/vector_stores/{two.ids['vector_store_id']}/search", json={"query": "boiler"})
    assert tenants.SECRET in found.text


def test_random_requests_across_tenants(two: Any) -> None:
    """The integration tests ask ten thousand."""
    assert_nothing_is_told(two, 200)


def assert_nothing_is_told(two: Any, num_requests: int) -> None:
    """Random routes with random ids of ann's in their places, as `bob`."""
    asyncio.run(_ask_at_random(two, num_requests))
    mine = TestClient(two.app, headers=two.headers["ann"])
    for path in ("/v1/files/{file_id}", "/v1/fine_tuning/jobs/{job_id}", "/v1/models/{name}"):
        assert mine.get(tenants.filled(path, two.ids)).status_code == 200


async def _ask_at_random(two: Any, num_requests: int) -> None:
    draw = random.Random(20261125)
    routes = [
        (method, path)
        for method, path in two.routes()
        if "{" in path or (method not in ("GET", "HEAD") and path != "/v1/files")
    ]
    expected: dict[tuple[Any, ...], tuple[int, str]] = {}
    # In process and on one event loop: a test client would spend most of the time on threads of its own.
    transport = httpx.ASGITransport(two.app)
    headers = two.headers["bob"]
    async with httpx.AsyncClient(transport=transport, base_url="http://test", headers=headers) as client:
        for _ in range(num_requests):
            method, path = draw.choice(routes)
            # Ids also in places of other kinds: a file's id as a job's, and so on.
            mixes = draw.random() < 0.1
            names = {name: draw.choice(sorted(two.ids)) if mixes else name for name in two.ids}
            ids = {name: two.ids[source] for name, source in names.items()}
            never = {name: tenants.never_was(value) for name, value in ids.items()}
            number = draw.randrange(len(tenants.bodies_of(method, path, ids)))
            used = [source for name, source in names.items() if "{" + name in path]
            case = (method, path, number, *used, tuple(names.values()) if method in ("POST", "PUT") else ())
            if case not in expected:
                expected[case] = await ask(client, method, path, never, number)
            assert await ask(client, method, path, ids, number) == expected[case], case


async def ask(
    client: httpx.AsyncClient, method: str, path: str, ids: dict[str, str], number: int
) -> tuple[int, str]:
    body = tenants.bodies_of(method, path, ids)[number]
    response = await client.request(method, tenants.filled(path, ids), json=body)
    assert response.status_code < 500
    status, text = response.status_code, response.text
    return tenants.told(status, text, ids)
