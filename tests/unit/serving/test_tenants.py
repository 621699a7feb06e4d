"""What belongs to one tenant does not exist for another, on every route and verb of the application."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from scripted_tenants import (
    SECRET,
    TwoTenants,
    assert_nothing_is_told,
    bodies_of,
    filled,
    told,
    two_tenants,
)
from starlette.testclient import TestClient

from cluster.cards import ModelCard


@pytest.fixture
def two(make_card: Callable[..., ModelCard]) -> TwoTenants:
    return two_tenants(make_card)


def test_every_route_answers_for_anothers_ids_as_for_ids_that_never_were(two: TwoTenants) -> None:
    client = TestClient(two.app, headers=two.headers["bob"])
    unknown = two.unknown()
    asked = 0
    for method, path in two.routes():
        theirs = bodies_of(method, path, two.ids)
        never = bodies_of(method, path, unknown)
        for body, other in zip(theirs, never, strict=True):
            seen = client.request(method, filled(path, two.ids), json=body)
            expected = client.request(method, filled(path, unknown), json=other)
            answer = told(seen.status_code, seen.text, two.ids)
            assert answer == told(expected.status_code, expected.text, unknown), (method, path, body)
            assert SECRET not in seen.text, (method, path)
            if "{" in path:
                assert seen.status_code in (400, 404), (method, path, seen.text)
            asked += 1
    assert asked > 50


def test_lists_show_the_owner_what_they_hide_from_others(two: TwoTenants) -> None:
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


def test_the_owner_finds_each_object_so_the_comparison_is_no_empty_one(two: TwoTenants) -> None:
    client = TestClient(two.app, headers=two.headers["ann"])
    for method, path in two.routes():
        if method == "GET" and "{" in path and not path.startswith(("/reports", "/v1/evaluations")):
            assert client.get(filled(path, two.ids)).status_code == 200, path
    found = client.post(f"/v1/vector_stores/{two.ids['vector_store_id']}/search", json={"query": "boiler"})
    assert SECRET in found.text


def test_random_requests_across_tenants(two: TwoTenants) -> None:
    """The integration tests ask ten thousand."""
    assert_nothing_is_told(two, 200)
