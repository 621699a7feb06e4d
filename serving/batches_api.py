"""`/v1/batches`: many requests as one file, answered within a day, in OpenAI's shapes.

What is wrong with a file is told by the batch, which then has failed: it is read after the request.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from pydantic import Field

from cluster.batch_records import Batch, BatchRequest, BatchStatus
from cluster.batches import Batches
from cluster.files import Files
from serving import object_schemas as shapes
from serving.authentication import ANONYMOUS, tenant_of
from serving.bodies import KeptBody, Part
from serving.config import ServingConfig
from serving.files_api import BATCH_EXPIRY_S, EXPIRY_S, require_file
from serving.idempotency import KeyHeader, key_of
from serving.lists import list_object
from serving.metadata import Metadata
from serving.openapi import answers, routes_of

INPUT_PURPOSE = "batch"
COMPLETION_WINDOW = "24h"
ONE_BATCH = answers(shapes.Batch)

Limit = Annotated[int, Query(ge=1, le=100)]
Endpoint = Literal["/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/classify", "/v1/rerank"]


class OutputExpiry(Part):
    anchor: Literal["created_at"]
    seconds: int = Field(ge=EXPIRY_S[0], le=EXPIRY_S[1])


class CreateBatchRequest(KeptBody):
    """`POST /v1/batches`"""

    input_file_id: str = Field(min_length=1)
    endpoint: Endpoint
    completion_window: Literal["24h"]
    metadata: Metadata | None = None
    output_expires_after: OutputExpiry | None = None


def router(batches: Batches, files: Files, config: ServingConfig) -> APIRouter:
    """The endpoints over `batches`, whose input is in `files`."""
    api = routes_of("Batches", "/v1/batches")

    @api.post("", summary="Create batch", responses=ONE_BATCH)
    def create(body: CreateBatchRequest, request: Request, key_name: KeyHeader = None) -> dict[str, Any]:
        tenant, key = tenant_of(request), key_of(key_name, body)
        if made := batches.made_before(tenant, key):
            return batch_object(made)
        file = require_file(files, tenant, body.input_file_id, "input_file_id", INPUT_PURPOSE)
        # What the answers will take nobody knows; who is above the limit already waits.
        files.require_room(tenant, 0, config.limits.storage_bytes_per_tenant)
        expiry = body.output_expires_after
        asked = BatchRequest(
            key_id=str(getattr(request.state, "key_id", ANONYMOUS)),
            endpoint=body.endpoint,
            input_file=file.id,
            input_uri=file.uri,
            output_expires_after_s=expiry.seconds if expiry else BATCH_EXPIRY_S,
            labels=body.metadata,
        )
        return batch_object(batches.create(tenant, asked, config.batches.max_waiting_per_tenant, key))

    @api.get("", summary="List batches", responses=answers(shapes.BatchList))
    def listing(request: Request, after: str | None = None, limit: Limit = 20) -> dict[str, Any]:
        page = batches.list(tenant_of(request), after=after, limit=limit)
        return list_object(page, batch_object, no_id=None)

    # Not `batch_id`: that is a file batch of a vector store.
    @api.get("/{batch}", summary="Retrieve batch", responses=ONE_BATCH)
    def retrieve(batch: str, request: Request) -> dict[str, Any]:
        return batch_object(batches.get(tenant_of(request), batch))

    @api.post("/{batch}/cancel", summary="Cancel batch", responses=ONE_BATCH)
    def cancel(batch: str, request: Request) -> dict[str, Any]:
        return batch_object(batches.cancel(tenant_of(request), batch))

    return api


def batch_object(batch: Batch) -> dict[str, Any]:
    """OpenAI's batch object."""
    reached = {
        f"{status.value}_at": int(batch.times[status.value]) if status.value in batch.times else None
        for status in BatchStatus
        if status is not BatchStatus.VALIDATING
    }
    prompt, completion = batch.num_prompt_tokens, batch.num_completion_tokens
    return {
        "id": batch.id,
        "object": "batch",
        "endpoint": batch.endpoint,
        "model": batch.model,
        "errors": {"object": "list", "data": batch.faults} if batch.faults else None,
        "input_file_id": batch.input_file,
        "completion_window": COMPLETION_WINDOW,
        "status": batch.status.value,
        "output_file_id": batch.output_file,
        "error_file_id": batch.error_file,
        "created_at": int(batch.created_at),
        "expires_at": int(batch.expires_at),
        **reached,
        "request_counts": {
            "total": batch.num_rows or 0,
            "completed": batch.num_completed,
            "failed": batch.num_failed,
        },
        # What came from the prefix cache or was reasoning is not told apart.
        "usage": {
            "input_tokens": prompt,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": completion,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": prompt + completion,
        },
        "metadata": batch.labels,
    }
