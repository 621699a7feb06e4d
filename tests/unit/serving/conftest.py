from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from starlette.testclient import TestClient

from cluster.cards import ModelCard, ModelKind
from serving.scripted_parts import ScriptedApplication, scripted_card

MakeCard = Callable[..., ModelCard]


def _post(world: ScriptedApplication, path: str, body: dict[str, Any]) -> Any:
    # Escaped to ASCII, as many clients do: so that a lone surrogate can be sent at all.
    headers = {"content-type": "application/json"}
    return TestClient(world.app).post(path, content=json.dumps(body), headers=headers)


@pytest.fixture
def world() -> ScriptedApplication:
    return ScriptedApplication()


@pytest.fixture
def chat(world: ScriptedApplication) -> Callable[..., Any]:
    """Ask the application of `world`: `chat("Hi", model="auto", n=2)` returns the HTTP response."""

    def ask(text: str = "Hi", model: str = "smollm2", **changes: Any) -> Any:
        body = {"model": model, "messages": [{"role": "user", "content": text}], **changes}
        return _post(world, "/v1/chat/completions", body)

    return ask


@pytest.fixture
def post(world: ScriptedApplication) -> Callable[..., Any]:
    """`post("/v1/embeddings", model="minilm", input="a")` returns the HTTP response."""

    def send(path: str, **body: Any) -> Any:
        return _post(world, path, body)

    return send


@pytest.fixture
def make_card() -> MakeCard:
    """Cards of LoRA adapters on the default base, with what a test changes."""

    def make(card_id: str = "ft:smollm2:acme:handbook:1", **changes: Any) -> ModelCard:
        return ModelCard(**(scripted_card(card_id).model_dump() | changes))

    return make


@pytest.fixture
def pair_card(make_card: MakeCard) -> ModelCard:
    return make_card(
        "ft:minilm:acme:paraphrase:1",
        kind=ModelKind.CLASSIFIER,
        base_model="builtin:minilm",
        is_adapter=False,
        lora_rank=None,
        labels=("different", "equivalent"),
        is_pair=True,
    )
