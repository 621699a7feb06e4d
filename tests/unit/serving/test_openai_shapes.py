"""Answers against OpenAI's own schema, where the reference data lies beside the repository."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from scripted_tenants import bodies as bodies_by_route
from scripted_tenants import filled, two_tenants
from starlette.testclient import TestClient

from cluster.cards import ModelCard
from cluster.files import Files
from cluster.fine_tuning_queue import FineTuningQueue
from serving.scripted_parts import ScriptedApplication

Ask = Callable[..., Any]
# Our names of path parameters.
PARAMETERS = {"fine_tuning_job_id": "job_id", "model": "name"}
# Listing stored chats: none are stored. Of a file's content: it is bytes.
NOT_COMPARED = {("get", "/chat/completions"), ("get", "/files/{file_id}/content")}


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


def test_every_operation_of_openais_document_is_there_and_answers_in_its_shape(
    openai_document: dict[str, Any], validate: Callable[[Any, str], None], make_card: Callable[..., ModelCard]
) -> None:
    two = two_tenants(make_card)
    client = TestClient(two.app, headers=two.headers["ann"])
    engine = two.world.platform.engine
    FineTuningQueue(engine).add(two.ids["job_id"], {})
    files = Files(engine)
    rows = files.add(files.stored("ann", "rows.jsonl", "fine-tune", b"{}\n" * 9))
    bodies = bodies_by_route(two.ids) | {
        ("POST", "/v1/fine_tuning/jobs"): [{"model": "smollm2", "training_file": rows.id}],
        ("POST", "/v1/embeddings"): [{"model": "minilm", "input": "x"}],
        ("POST", "/v1/vector_stores/{vector_store_id}/search"): [{"query": "boiler"}],
    }
    wanted = [
        (method, path, operation["responses"]["200"]["content"]["application/json"]["schema"])
        for path, methods in openai_document["paths"].items()
        for method, operation in methods.items()
        if (method, path) not in NOT_COMPARED
    ]
    # What is paused, resumed, cancelled and deleted is so after all else; the parts go before the whole.
    verbs = ("/pause", "/resume", "/cancel")
    wanted.sort(
        key=lambda entry: (entry[0] == "delete", [entry[1].endswith(v) for v in verbs[::-1]], -len(entry[1]))
    )
    for method, path, schema in wanted:
        ours = "/v1" + re.sub(r"{(\w+)}", lambda match: f"{{{PARAMETERS.get(match[1], match[1])}}}", path)
        if (method, path) == ("post", "/files"):
            sent = {"files": {"file": b"x"}, "data": {"purpose": "user_data"}}
        else:
            sent = {"json": bodies.get((method.upper(), ours), [None])[0]}
        answer = client.request(method, filled(ours, two.ids), **sent)
        assert answer.status_code == 200, (method, ours, answer.text)
        body = answer.json()
        if path.endswith("/pause"):
            assert body.pop("status") == "paused"  # OpenAI's document has the verb, and not its state
            body["status"] = "queued"
        validate(body, schema["$ref"].removeprefix("#/components/schemas/"))
