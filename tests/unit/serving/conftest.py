from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
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


@pytest.fixture
def openai_document(shared: Path) -> dict[str, Any]:
    """OpenAI's own description of its API, where the reference data lies beside the repository."""
    # OpenAPI 3.0's exclusiveMinimum is a flag; read as 3.1's number it would mean "above 1".
    text = (shared / "openai" / "openapi-subset.json").read_text()
    read: dict[str, Any] = json.loads(re.sub(r',\s*"exclusiveMinimum": true', "", text))
    return read


@pytest.fixture
def validate(openai_document: dict[str, Any]) -> Callable[[Any, str], None]:
    """`validate(body, "CreateChatCompletionResponse")` fails with the first difference."""

    def check(body: Any, name: str) -> None:
        schema = {"$ref": f"#/components/schemas/{name}", "components": openai_document["components"]}
        jsonschema.Draft202012Validator(schema).validate(_without_nulls_of_3_0(body))

    return check


def _without_nulls_of_3_0(body: Any) -> Any:
    """The document mixes `nullable: true` of OpenAPI 3.0 into 3.1; such nulls are left out."""
    if isinstance(body, dict):
        nullable = {"usage", "logprobs", "finish_reason"} if "delta" in body or "choices" in body else set()
        kept = {k: v for k, v in body.items() if not (v is None and k in nullable)}
        if "delta" in body:
            kept.setdefault("finish_reason", "stop")
        return {key: _without_nulls_of_3_0(value) for key, value in kept.items()}
    return [_without_nulls_of_3_0(item) for item in body] if isinstance(body, list) else body
