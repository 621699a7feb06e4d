from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
from starlette.testclient import TestClient

from cluster.cards import ModelCard
from serving.metrics import CountedMetrics, TokenTimes
from serving.scripted_parts import ScriptedApplication, scripted_passage


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_counts_its_route_stages_and_tokens(
    world: ScriptedApplication, chat: Callable[..., Any], stream: bool
) -> None:
    world.retriever.by_tenant["default"] = [scripted_passage(1, "fact")]
    chat("one two", model="smollm2+rag", stream=stream)
    counts, observed = world.metrics.counts, world.metrics.observed
    assert counts["answers", "rag", "false"] == 1
    assert counts["tokens", "completion", "smollm2"] == 4
    assert counts["tokens", "prompt", "smollm2"] == len(world.engine.prompts[0])
    assert counts["requests", "/v1/chat/completions", "200"] == 1
    assert {stage for name, stage in observed if name == "stage_ms"} == {
        "route",
        "embed",
        "search",
        "generate",
    }
    assert (("first_token_ms", "smollm2") in observed) == stream
    assert (("tpot_ms", "smollm2") in observed) == stream


def test_an_answer_that_needs_no_model_has_no_first_token(
    world: ScriptedApplication, chat: Callable[..., Any]
) -> None:
    chat("one two", model="smollm2+rag", stream=True)  # of no documents
    assert world.metrics.counts["answers", "rag", "false"] == 1
    assert ("first_token_ms", "smollm2") not in world.metrics.observed


@pytest.mark.parametrize("stream", [False, True])
def test_a_bare_completion_counts_its_tokens_as_an_answer_does(
    world: ScriptedApplication, post: Callable[..., Any], stream: bool
) -> None:
    post("/v1/completions", model="smollm2", prompt="one two", n=2, temperature=1, stream=stream)
    counts, observed = world.metrics.counts, world.metrics.observed
    assert counts["tokens", "prompt", "smollm2"] == 2
    assert counts["tokens", "completion", "smollm2"] == 8
    for name in ("first_token_ms", "tpot_ms"):
        assert len(observed.get((name, "smollm2"), ())) == stream


def test_texts_that_are_embedded_classified_or_ranked_are_counted_by_their_model(
    world: ScriptedApplication, post: Callable[..., Any], pair_card: ModelCard
) -> None:
    world.cards.append(pair_card)
    post("/v1/embeddings", model="minilm", input=["one two", "three"])
    post("/v1/rerank", model="minilm", query="one", documents=["two", "three"])
    post("/v1/classify", model=pair_card.id, input=[["one two", "three"]])
    counts = world.metrics.counts
    assert counts["tokens", "prompt", "minilm"] == 3 + 3
    assert counts["tokens", "prompt", pair_card.id] == 3


def test_the_time_of_a_further_token_leaves_out_the_first() -> None:
    metrics, seconds = CountedMetrics(), iter([0.0, 0.5, 1.4])
    times = TokenTimes(metrics, "base", clock=lambda: next(seconds))
    assert times.first() == 500
    times.last(num_tokens=20, num_choices=2)
    assert metrics.observed["tpot_ms", "base"] == [pytest.approx(100)]


def test_an_answer_of_one_token_has_no_time_of_a_further_one() -> None:
    metrics = CountedMetrics()
    times = TokenTimes(metrics, "base")
    times.last(num_tokens=2, num_choices=2)
    assert not metrics.observed


def test_paths_that_callers_make_up_are_one_label(world: ScriptedApplication) -> None:
    client = TestClient(world.app)
    for number in range(3):
        client.get(f"/nothing/{number}")
    client.get("/v1/models/smollm2")
    assert world.metrics.counts["requests", "unknown", "404"] == 3
    assert world.metrics.counts["requests", "/v1/models/{name:path}", "200"] == 1


def test_each_request_is_one_log_line_with_its_id_and_probes_are_none(
    world: ScriptedApplication, caplog: pytest.LogCaptureFixture
) -> None:
    client = TestClient(world.app)
    with caplog.at_level(logging.INFO, "serving.requests"):
        client.get("/healthz")
        client.get("/v1/models", headers={"x-request-id": "mine-1"})
        client.get("/v1/models", headers={"x-request-id": "bad id; x=1"})
    assert len(caplog.messages) == 2
    assert caplog.messages[0].startswith("request_id=mine-1 method=GET path='/v1/models' status=200 ms=")
    assert caplog.messages[1].startswith("request_id=req_")


def test_a_path_that_a_caller_makes_up_forges_no_line_of_the_log_and_is_cut(
    world: ScriptedApplication, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "serving.requests"):
        TestClient(world.app).get("/x%0aforged%1b[31m" + "y" * 10_000)
    (line,) = caplog.messages
    assert r"path='/x\nforged\x1b[31myyy" in line
    assert line.isprintable()
    assert len(line) < 400
