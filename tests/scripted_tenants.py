"""Two tenants of one application: `ann` owns one of everything, `bob` owns nothing.

Every route of the application is asked for by `bob` with ann's ids, and must answer as for ids that never were. A
route with a body or a parameter that is not described here fails its test: a new one cannot be forgotten.
"""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx
from fastapi.routing import APIRoute
from starlette.testclient import TestClient

from cluster.api_keys import make_key
from cluster.batch_records import BatchRequest
from cluster.batches import Batches
from cluster.cards import ModelCard
from cluster.files import Files
from cluster.fine_tuning_jobs import FineTuningJobs
from cluster.fine_tuning_records import JobRequest
from cluster.registry import Registry
from cluster.reports import Report, Reports, ReportStatus
from serving.authentication import Gate, Keyring
from serving.config import FineTuningConfig, ServingConfig
from serving.platform import Platform
from serving.scripted_parts import ScriptedApplication

SECRET = "Ann's boiler is serviced by Wilhelmina."
# Routes that belong to nobody: the page, probes, descriptions, and what says nothing about anybody's objects.
PUBLIC = re.compile(r"/|/page/.*|/healthz|/readyz|/docs.*|/redoc|/openapi.json|/v1/cluster")


@dataclass
class TwoTenants:
    """The application, the headers of both, and ann's ids by the names of path parameters."""

    world: ScriptedApplication
    app: Any
    headers: dict[str, dict[str, str]]
    ids: dict[str, str]

    def routes(self) -> list[tuple[str, str]]:
        """Method and path of everything that can be somebody's."""
        return sorted(
            (method, route.path)
            for route in all_routes(self.app)
            for method in route.methods or ()
            if not PUBLIC.fullmatch(route.path)
        )

    def unknown(self) -> dict[str, str]:
        """Ids of the same form that never were."""
        return {name: never_was(value) for name, value in self.ids.items()}


def all_routes(app: Any) -> list[APIRoute]:
    return [route for route in app.routes if isinstance(route, APIRoute)]


def never_was(identifier: str) -> str:
    return identifier[:-1] + ("0" if identifier[-1] != "0" else "1")


def two_tenants(make_card: Callable[..., ModelCard]) -> TwoTenants:
    config = ServingConfig(fine_tuning=FineTuningConfig(launcher="local"))
    world = ScriptedApplication(config=config, platform=Platform.of(config))
    assert world.platform is not None
    world.search_for_real()
    made = {tenant: make_key(tenant, ["admin"]) for tenant in ("ann", "bob")}
    world.gate = Gate(Keyring(lambda: [key for key, _ in made.values()]))
    headers = {tenant: {"authorization": f"Bearer {secret}"} for tenant, (_, secret) in made.items()}
    engine = world.platform.engine

    files, jobs, models = Files(engine), FineTuningJobs(engine), Registry(engine)
    file = files.add(files.stored("ann", "boiler.md", "assistants", SECRET.encode()))
    job = jobs.create(
        "ann", JobRequest("smollm2", file.id, None, {"type": "supervised"}, {}, None, 1, None, {})
    )
    card = make_card("ft:smollm2:acme:handbook:1a2b3c4d")
    models.register(card, "ann")
    models.promote("annsalias", card.id, "ann")
    report = Report(id="eval-00000000000000aa", tenant="ann", name=SECRET, status=ReportStatus.QUEUED)
    Reports().save(report)

    app = world.app
    client = TestClient(app, headers=headers["ann"])
    store = client.post("/v1/vector_stores", json={"name": SECRET}).json()
    path = f"/v1/vector_stores/{store['id']}/file_batches"
    batch = client.post(path, json={"file_ids": [file.id], "attributes": {"secret_key": "x"}}).json()
    asked = Batches(engine).create(
        "ann", BatchRequest("key-1", "/v1/embeddings", file.id, file.uri, 3600, {"for": SECRET})
    )
    worker = world.worker()
    while worker.run_one():
        pass
    ids = {
        "file_id": file.id,
        "job_id": job.id,
        "name": card.id,
        "alias": "annsalias",
        "vector_store_id": store["id"],
        "batch_id": batch["id"],
        "batch": asked.id,
        "report_id": report.id,
    }
    return TwoTenants(world, app, headers, ids)


def bodies(ids: dict[str, str]) -> dict[tuple[str, str], list[Any]]:
    """Bodies for every route that takes one, with an id in each place that an id may stand in."""
    chat = {"messages": [{"role": "user", "content": "Who services the boiler?"}]}
    tool = {"type": "file_search", "vector_store_ids": [ids["vector_store_id"]]}
    model = ids["name"]
    stores = "/v1/vector_stores"
    return {
        ("POST", "/v1/chat/completions"): [
            {"model": model, **chat},
            {"model": ids["alias"], **chat},
            {"model": f"{model}+rag", **chat},
            {"model": "smollm2", "tools": [tool], **chat},
            {"model": "auto", "tools": [tool], **chat},
            {"model": "smollm2+rag", "hamlet": {"collection": "vector-stores-ann"}, **chat},
        ],
        ("POST", "/v1/completions"): [{"model": model, "prompt": "x"}],
        ("POST", "/v1/embeddings"): [{"model": model, "input": "x"}],
        ("POST", "/v1/classify"): [{"model": model, "input": "x"}],
        ("POST", "/v1/rerank"): [{"model": model, "query": "x", "documents": ["x"]}],
        ("POST", "/v1/batches"): [
            {
                "input_file_id": ids["file_id"],
                "endpoint": "/v1/embeddings",
                "completion_window": "24h",
            }
        ],
        ("POST", "/v1/batches/{batch}/cancel"): [None],
        ("POST", "/v1/fine_tuning/jobs"): [
            {"model": "smollm2", "training_file": ids["file_id"]},
            {"model": model, "training_file": ids["file_id"]},
        ],
        ("POST", "/v1/fine_tuning/plans"): [{"model": "smollm2", "training_file": ids["file_id"]}],
        ("POST", "/v1/fine_tuning/jobs/{job_id}/cancel"): [None],
        ("POST", "/v1/fine_tuning/jobs/{job_id}/pause"): [None],
        ("POST", "/v1/fine_tuning/jobs/{job_id}/resume"): [None],
        ("PUT", "/v1/aliases/{alias}"): [{"model": model}, {"model": ids["alias"]}],
        ("POST", "/v1/aliases/{alias}/rollback"): [None],
        ("POST", "/v1/evaluations"): [{"questions": ids["file_id"], "cells": {"plain": "smollm2"}}],
        ("POST", "/v1/files"): [None],
        ("POST", stores): [{"file_ids": [ids["file_id"]]}],
        ("POST", stores + "/{vector_store_id}"): [{"name": "mine"}],
        ("POST", stores + "/{vector_store_id}/search"): [
            {"query": "boiler", "hamlet": {"explain": True}},
            {"query": "boiler", "filters": {"type": "eq", "key": "secret_key", "value": "x"}},
        ],
        ("POST", stores + "/{vector_store_id}/files"): [{"file_id": ids["file_id"]}],
        ("POST", stores + "/{vector_store_id}/files/{file_id}"): [{"attributes": {"a": "b"}}],
        ("POST", stores + "/{vector_store_id}/file_batches"): [{"file_ids": [ids["file_id"]]}],
        ("POST", stores + "/{vector_store_id}/file_batches/{batch_id}/cancel"): [None],
    }


def bodies_of(method: str, path: str, ids: dict[str, str]) -> list[Any]:
    known = bodies(ids)
    if method in ("GET", "HEAD", "DELETE"):
        return [None]
    assert (method, path) in known, f"describe what {method} {path} takes in tests/scripted_tenants.py"
    return known[method, path]


def filled(path: str, ids: dict[str, str]) -> str:
    """A path with an id for each parameter."""

    def identifier(match: re.Match[str]) -> str:
        name = match[1].removesuffix(":path")
        assert name in ids, f"say what {{{name}}} of {path} is in tests/scripted_tenants.py"
        return ids[name]

    return re.sub(r"\{([^}]+)\}", identifier, path)


def told(status: int, text: str, ids: dict[str, str]) -> tuple[int, str]:
    """An answer with the ids that were asked for, what is drawn and what is measured left out."""
    for value in ids.values():
        text = text.replace(value, "<id>")
    text = re.sub(r"chatcmpl-\w+|cmpl-\w+|rerank-\w+", "<answer>", text)
    text = re.sub(r'"(created|stage_ms)":(\{[^}]*\}|\d+)', r'"\1":0', text)
    return status, text


def assert_nothing_is_told(two: TwoTenants, num_requests: int) -> None:
    """Random routes with random ids of ann's in their places, as `bob`."""
    asyncio.run(_ask_at_random(two, num_requests))
    mine = TestClient(two.app, headers=two.headers["ann"])
    for path in ("/v1/files/{file_id}", "/v1/fine_tuning/jobs/{job_id}", "/v1/models/{name}"):
        assert mine.get(filled(path, two.ids)).status_code == 200


async def _ask_at_random(two: TwoTenants, num_requests: int) -> None:
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
            never = {name: never_was(value) for name, value in ids.items()}
            number = draw.randrange(len(bodies_of(method, path, ids)))
            used = [source for name, source in names.items() if "{" + name in path]
            case = (method, path, number, *used, tuple(names.values()) if method in ("POST", "PUT") else ())
            if case not in expected:
                expected[case] = await ask(client, method, path, never, number)
            assert await ask(client, method, path, ids, number) == expected[case], case


async def ask(
    client: httpx.AsyncClient, method: str, path: str, ids: dict[str, str], number: int
) -> tuple[int, str]:
    body = bodies_of(method, path, ids)[number]
    response = await client.request(method, filled(path, ids), json=body)
    assert response.status_code < 500
    status, text = response.status_code, response.text
    return told(status, text, ids)
