"""The OpenAPI document: complete for every operation, whoever adds one."""

from __future__ import annotations

import re
from collections.abc import Callable
from copy import deepcopy
from functools import cache
from typing import Any

import jsonschema
import pytest
from fastapi import APIRouter
from scripted_tenants import filled, two_tenants
from starlette.testclient import TestClient

from cluster.cards import ModelCard
from serving.api import create_app
from serving.authentication import is_public
from serving.config import FineTuningConfig, ServingConfig
from serving.platform import Platform
from serving.scripted_parts import ScriptedApplication


@pytest.fixture
def document() -> dict[str, Any]:
    return read_document()


@cache
def read_document() -> dict[str, Any]:
    """As a caller reads it, without a key. The same for all tests: it depends on the routes alone."""
    config = ServingConfig(fine_tuning=FineTuningConfig(launcher="local"))
    world = ScriptedApplication(config=config, platform=Platform.of(config))
    answer: dict[str, Any] = TestClient(world.app).get("/openapi.json").json()
    return answer


def operations(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Every operation by `POST /v1/files`."""
    return {
        f"{method.upper()} {path}": operation
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }


def test_the_application_has_the_routes_that_its_routers_made_and_makes_none_again() -> None:
    router = APIRouter()
    router.add_api_route("/further", lambda: None)
    app = create_app(ScriptedApplication().front, routers=[router])
    assert any(route is router.routes[0] for route in app.routes)


def test_every_operation_has_a_summary_a_group_and_a_name_of_its_own(document: dict[str, Any]) -> None:
    found = operations(document)
    assert len(found) > 50
    groups = {tag["name"] for tag in document["tags"]}
    for name, operation in found.items():
        assert re.fullmatch(r"[A-Z][a-z -]+", operation["summary"]), f"{name} needs summary="
        assert set(operation["tags"]) <= groups, f"{name}: its tag is missing in serving.openapi.TAGS"
    names = [operation["operationId"] for operation in found.values()]
    assert sorted(set(names)) == sorted(names)


def test_every_operation_says_what_it_answers_and_how_it_refuses(document: dict[str, Any]) -> None:
    for name, operation in operations(document).items():
        for media_type, content in operation["responses"]["200"]["content"].items():
            schema = content["schema"]
            is_told = "$ref" in schema or media_type != "application/json" or "results" in name
            assert is_told, f"{name} needs responses=answers(...)"
        if not is_public(name.split()[1]):
            assert {"4XX", "429", "503"} <= operation["responses"].keys(), name
        assert "422" not in operation["responses"], name
    for refusal in document["components"]["responses"].values():
        assert refusal["content"]["application/json"]["schema"] == {
            "$ref": "#/components/schemas/ErrorAnswer"
        }


def test_only_probes_need_no_key(document: dict[str, Any]) -> None:
    assert document["security"] == [{"api_key": []}]
    assert document["components"]["securitySchemes"]["api_key"]["scheme"] == "bearer"
    without = [name for name, operation in operations(document).items() if operation.get("security") == []]
    assert without == ["GET /healthz", "GET /readyz"]


def test_numbers_in_queries_have_bounds(document: dict[str, Any]) -> None:
    for name, operation in operations(document).items():
        for parameter in operation.get("parameters", []):
            if parameter["schema"].get("type") == "integer":
                assert {"minimum", "maximum"} <= parameter["schema"].keys(), (name, parameter["name"])


def test_an_upload_is_described_although_it_is_read_by_hand(document: dict[str, Any]) -> None:
    body = document["paths"]["/v1/files"]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert body["required"] == ["file", "purpose"]
    assert "fine-tune" in body["properties"]["purpose"]["enum"]


def test_every_schema_is_one_and_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    components = document["components"]
    for schema in components["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(schema)
    for reference in references(document):
        *_, section, name = reference.split("/")
        assert name in components[section], reference


def test_no_answer_holds_what_the_document_does_not_name(
    document: dict[str, Any], make_card: Callable[..., ModelCard]
) -> None:
    components = deepcopy(document["components"])
    for schema in components["schemas"].values():
        schema.setdefault("additionalProperties", "properties" not in schema)
    two = two_tenants(make_card)
    client = TestClient(two.app, headers=two.headers["ann"])
    checked = 0
    for path, operation in ((path, methods.get("get")) for path, methods in document["paths"].items()):
        content = operation["responses"]["200"]["content"].get("application/json") if operation else None
        if content and (answer := client.get(filled(path, two.ids))).status_code == 200:
            schema = content["schema"] | {"components": components}
            jsonschema.Draft202012Validator(schema).validate(answer.json())
            checked += 1
    assert checked > 20


def references(value: Any) -> list[str]:
    if isinstance(value, dict):
        own = [value["$ref"]] if isinstance(value.get("$ref"), str) else []
        return own + [found for item in value.values() for found in references(item)]
    return [found for item in value for found in references(item)] if isinstance(value, list) else []
