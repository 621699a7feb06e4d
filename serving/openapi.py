"""The OpenAPI document: what FastAPI reads from the routes, and what holds for all of them.

A route says its `summary` and, by `answers`, the shape of its answer. The shapes describe and do not check: bodies
are built as plain dicts, and tests hold them to this document.
"""

from __future__ import annotations

import re
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute

from serving.answer_schemas import ErrorAnswer
from serving.authentication import is_public

DESCRIPTION = """\
OpenAI's paths and shapes over your own models and documents: point the `openai` client's `base_url` at `/v1`.

A **model** is a registered name or alias, such a name with `+rag` (answers from your documents, with citations), or
`auto` (the router decides and says why). What is not OpenAI's stands in an object named `hamlet`.

Every error is OpenAI's error object. `message` names the cause and the remedy, `param` the field. A field that is
not listed here is refused rather than ignored. 429 and 503 carry `Retry-After`.

Uploads, jobs, batches and vector stores can be asked for again by the header `Idempotency-Key`, and are made once.
"""

TAGS = [
    {"name": "Chat", "description": "Answers to conversations, plain or from your documents."},
    {"name": "Completions", "description": "Bare prompts, continued."},
    {"name": "Embeddings", "description": "Texts as vectors."},
    {
        "name": "Classify and rerank",
        "description": "Labels for texts or pairs; documents in order of relevance.",
    },
    {
        "name": "Models",
        "description": "What can be named as `model`, and aliases that are moved and moved back.",
    },
    {"name": "Files", "description": "Uploads for training, vector stores and evaluations."},
    {"name": "Batches", "description": "Files of requests that are answered within a day."},
    {"name": "Fine-tuning", "description": "Jobs that make a model of a file of chats."},
    {"name": "Vector stores", "description": "Files that can be searched and answered from."},
    {"name": "Evaluations", "description": "Comparisons of models on your own questions, and their reports."},
    {"name": "Cluster", "description": "What runs where, and whether it is well."},
]

KEY_SCHEME = {
    "type": "http",
    "scheme": "bearer",
    "description": "An API key, made by `python -m cluster keys create`. While no key exists, callers on the same "
    "machine need none.",
}
RETRY_AFTER = {
    "Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer", "minimum": 1}}
}
# By status: name of the component, description, headers.
ERRORS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "4XX": (
        "Refused",
        "The caller can mend it: a field or body at fault (400), no valid key (401), a key without the scope (403), "
        "nothing of that id or name (404), a state that does not allow it (409), too large (413), "
        "no JSON by its header (415), an Idempotency-Key that stands for another request (422).",
        {},
    ),
    "429": ("Overloaded", "More is asked than is allowed or can wait.", RETRY_AFTER),
    "503": ("Unavailable", "A part is down, or an answer took too long.", RETRY_AFTER),
}


EVENT_STREAM: dict[str, Any] = {
    "text/event-stream": {
        "schema": {
            "type": "string",
            "description": "With `stream`: lines of `data: {chunk}`, the last is `[DONE]`.",
        }
    }
}


def answers(model: Any, description: str = "Done.", **content: Any) -> dict[int | str, dict[str, Any]]:
    """What a route answers with status 200: `model` as JSON, and `content` by further media types."""
    return {200: {"model": model, "description": description, **({"content": content} if content else {})}}


def operation_id(route: APIRoute) -> str:
    """The name of an operation in generated clients, from its summary: `list_files`."""
    return re.sub(r"\W+", "_", (route.summary or route.name).lower())


def routes_of(tag: str, prefix: str = "") -> APIRouter:
    """A router for one part of the API, whose operations are named by `operation_id`, as the application's own are."""
    return APIRouter(prefix=prefix, tags=[tag], generate_unique_id_function=operation_id)


def describe(app: FastAPI) -> None:
    """Make `app` tell of itself by `document`, made once when it is first asked for."""

    def told() -> dict[str, Any]:
        app.openapi_schema = app.openapi_schema or document(app)
        return app.openapi_schema

    app.openapi = told  # type: ignore[method-assign]


def document(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document of `app`."""
    schema = get_openapi(
        title=app.title, version=app.version, description=DESCRIPTION, routes=app.routes, tags=TAGS
    )
    components = schema.setdefault("components", {})
    components["securitySchemes"] = {"api_key": KEY_SCHEME}
    components["responses"] = {
        name: {
            "description": description,
            "content": {"application/json": {"schema": {"$ref": "#/components/schemas/ErrorAnswer"}}},
        }
        | ({"headers": headers} if headers else {})
        for name, description, headers in ERRORS.values()
    }
    schemas = components.setdefault("schemas", {})
    error = ErrorAnswer.model_json_schema(mode="serialization", ref_template="#/components/schemas/{model}")
    schemas |= error.pop("$defs") | {"ErrorAnswer": error}
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)  # FastAPI's own form of errors, which is sent nowhere
    schema["security"] = [{"api_key": []}]
    for path, operations in schema["paths"].items():
        for operation in operations.values():
            _complete(operation, is_public(path))
    return schema


def _complete(operation: dict[str, Any], public: bool) -> None:
    """Give an operation the errors that all have, or say that it needs no key."""
    responses = operation["responses"]
    responses.pop("422", None)
    if public:
        operation["security"] = []
    else:
        for status, (name, _, _) in ERRORS.items():
            responses.setdefault(status, {"$ref": f"#/components/responses/{name}"})
    for content in responses["200"].get("content", {}).values():
        shape = content.get("schema", {})
        if "$ref" in shape:  # FastAPI leaves what it read from the function's annotation beside it
            content["schema"] = {"$ref": shape["$ref"]}
