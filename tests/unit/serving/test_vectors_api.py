from __future__ import annotations

import base64
import struct
from collections.abc import Callable
from typing import Any

import pytest
from starlette.testclient import TestClient

from cluster.cards import ModelCard
from serving.scripted_parts import ScriptedApplication

Post = Callable[..., Any]


def embed(post: Post, **changes: Any) -> Any:
    return post("/v1/embeddings", **({"model": "minilm", "input": "abcd"} | changes))


def test_floats_and_base64_hold_the_same_little_endian_vector(post: Post) -> None:
    floats = embed(post, encoding_format="float").json()["data"][0]["embedding"]
    encoded = embed(post, encoding_format="base64").json()["data"][0]["embedding"]
    assert floats == [4.0, 0.5, -0.25, 1.0]
    assert list(struct.unpack("<4f", base64.b64decode(encoded))) == floats


def test_every_text_keeps_its_place_and_tokens_are_counted(post: Post) -> None:
    body = embed(post, input=["a b", "c"]).json()
    assert [(item["index"], item["embedding"][0]) for item in body["data"]] == [(0, 3.0), (1, 1.0)]
    assert body["usage"] == {"prompt_tokens": 3, "total_tokens": 3}


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"input": []}, "input"),
        ({"input": ""}, "input"),
        ({"input": ["a", ""]}, "input[1]"),
        ({"input": ["   "]}, "input[0]"),
        ({"input": None}, "input"),
        ({"input": [[15339, 1917]]}, "input[0]"),
        ({"input": [15339, 1917]}, "input[0]"),
        ({"input": ["half \ud835"]}, "input[0]"),
        ({"input": ["a"] * 2049}, "input"),
        ({"input": ["a", "w " * 51]}, "input[1]"),
        ({"encoding_format": "hex"}, "encoding_format"),
        ({"dimensions": 3}, "dimensions"),
    ],
)
def test_what_cannot_be_embedded_is_refused_by_name(post: Post, changes: dict[str, Any], param: str) -> None:
    response = embed(post, **changes)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param


def test_token_ids_are_answered_with_what_to_send_instead(post: Post) -> None:
    assert "send text" in embed(post, input=[[15339, 1917]]).json()["error"]["message"]


def test_a_generator_does_not_embed(post: Post) -> None:
    response = embed(post, model="smollm2")
    assert response.status_code == 404
    assert "kind generator" in response.json()["error"]["message"]


def test_pairs_are_classified_with_all_probabilities(
    world: ScriptedApplication, post: Post, pair_card: ModelCard
) -> None:
    world.cards.append(pair_card)
    body = post("/v1/classify", model=pair_card.id, input=[["a b", "a b"], ["a", "c"]]).json()
    assert [item["label"] for item in body["data"]] == ["equivalent", "different"]
    assert body["data"][1]["scores"] == {"different": 0.8, "equivalent": 0.2}
    assert body["data"][0]["truncated"] is False
    assert body["usage"]["prompt_tokens"] == 6


@pytest.mark.parametrize(
    ("value", "param"),
    [
        (["a"], "input[0]"),
        ([["a", "b", "c"]], "input[0]"),
        ([["a", "b"], ["a", ""]], "input[1][1]"),
        ([["a", "b"], 123], "input[1]"),
        ([], "input"),
    ],
)
def test_what_cannot_be_classified_is_refused_by_name(
    world: ScriptedApplication, post: Post, pair_card: ModelCard, value: Any, param: str
) -> None:
    world.cards.append(pair_card)
    response = post("/v1/classify", model=pair_card.id, input=value)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param


def test_health_is_of_the_process_and_readiness_of_every_part(world: ScriptedApplication) -> None:
    client = TestClient(world.app)
    assert client.get("/healthz").json() == {"status": "ok"}
    assert client.get("/readyz").status_code == 200
    world.engine.healthy = False
    response = client.get("/readyz")
    assert response.status_code == 503
    assert response.json()["parts"]["generator"] == "the generation engine has died"
    assert client.get("/healthz").status_code == 200
