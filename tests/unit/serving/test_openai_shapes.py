"""Answers against OpenAI's own schema, where the reference data lies beside the repository."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from serving.scripted_parts import ScriptedApplication

Ask = Callable[..., Any]


@pytest.fixture
def validate(shared: Path) -> Callable[[Any, str], None]:
    """`validate(body, "CreateChatCompletionResponse")` fails with the first difference."""
    jsonschema = pytest.importorskip("jsonschema")
    document = json.loads((shared / "openai" / "openapi-subset.json").read_text())

    def check(body: Any, name: str) -> None:
        schema = {"$ref": f"#/components/schemas/{name}", "components": document["components"]}
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


@pytest.mark.parametrize("changes", [{}, {"n": 2}, {"logprobs": True, "top_logprobs": 2}, {"max_tokens": 1}])
def test_chat_answers(validate: Callable[[Any, str], None], chat: Ask, changes: dict[str, Any]) -> None:
    validate(chat(**changes).json(), "CreateChatCompletionResponse")


def test_chat_chunks(validate: Callable[[Any, str], None], chat: Ask) -> None:
    lines = chat(stream=True, n=2, stream_options={"include_usage": True}).text.split("\n\n")
    chunks = [json.loads(line.removeprefix("data: ")) for line in lines if line and "[DONE]" not in line]
    assert len(chunks) > 8
    for chunk in chunks:
        validate(chunk, "CreateChatCompletionStreamResponse")


def test_completions_embeddings_models_and_errors(
    validate: Callable[[Any, str], None], post: Ask, world: ScriptedApplication, chat: Ask
) -> None:
    completion = {"model": "smollm2", "prompt": "x", "logprobs": 1}
    validate(post("/v1/completions", **completion).json(), "CreateCompletionResponse")
    validate(post("/v1/embeddings", model="minilm", input=["a"]).json(), "CreateEmbeddingResponse")
    client = TestClient(world.app)
    validate(client.get("/v1/models").json(), "ListModelsResponse")
    validate(client.get("/v1/models/smollm2").json(), "Model")
    validate(chat(model="nothing").json(), "ErrorResponse")
    validate(chat(n=0).json(), "ErrorResponse")
