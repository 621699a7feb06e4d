"""`/v1/fine_tuning/jobs`: OpenAI's fine-tuning over `cluster.fine_tuning_jobs`, and plans that start nothing.

What a request can get wrong is refused here, before there is a job. What happens to a job afterwards is the
conductor's.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request

from cluster.cards import slug
from cluster.errors import InvalidInput
from cluster.files import File, Files
from cluster.fine_tuning_jobs import FineTuningJobs
from cluster.fine_tuning_records import JobRequest
from serving import object_schemas as shapes
from serving.authentication import tenant_of
from serving.config import ServingConfig
from serving.files_api import TRAINING_PURPOSE, require_file
from serving.fine_tuning_objects import checkpoint_object, event_object, job_object
from serving.fine_tuning_requests import CreateJobRequest
from serving.finetune_config import finetune_config
from serving.idempotency import KeyHeader, key_of
from serving.lists import list_object
from serving.openapi import answers, routes_of
from serving.training_commands import TrainingCommands

Limit = Annotated[int, Query(ge=1, le=100)]
# The method that a file is for, by the task that its rows are of; and what to give a method instead.
METHODS = {"sft": "supervised", "dpo": "dpo"}
REMEDIES = {
    "supervised": "give chats, or method dpo for preferences",
    "dpo": "give preferences (input, preferred_output, non_preferred_output), or method supervised for chats",
}
ONE_JOB = answers(shapes.FineTuningJob)
METADATA_PARAMETER = {
    "parameters": [
        {
            "name": "metadata",
            "in": "query",
            "description": "Only jobs with these labels: `metadata[team]=search`.",
            "style": "deepObject",
            "explode": True,
            "schema": {"type": "object", "additionalProperties": {"type": "string"}},
        }
    ]
}
METADATA_KEY = re.compile(r"metadata\[(.+)\]")


def router(
    jobs: FineTuningJobs, files: Files, commands: TrainingCommands, config: ServingConfig
) -> APIRouter:
    """The endpoints over `jobs`; `commands` make plans."""
    api = routes_of("Fine-tuning", "/v1/fine_tuning")

    @api.post("/jobs", summary="Create fine-tuning job", responses=ONE_JOB)
    def create(body: CreateJobRequest, request: Request, key_name: KeyHeader = None) -> dict[str, Any]:
        tenant, key = tenant_of(request), key_of(key_name, body)
        if made := jobs.made_before(tenant, key):
            return job_object(made)
        asked = job_request(body, tenant, files, config)
        return job_object(jobs.create(tenant, asked, config.fine_tuning.max_waiting_per_tenant, key))

    @api.post("/plans", summary="Plan fine-tuning job", responses=answers(shapes.FineTuningPlan))
    def plan(body: CreateJobRequest, request: Request) -> dict[str, Any]:
        made = job_request(body, tenant_of(request), files, config)
        return {
            "object": "fine_tuning.plan",
            "model": made.model,
            "hyperparameters": made.hyperparameters,
            "plan": commands.plan(made.config, config.fine_tuning.price_per_hour),
        }

    @api.get(
        "/jobs",
        summary="List fine-tuning jobs",
        responses=answers(shapes.FineTuningJobList),
        openapi_extra=METADATA_PARAMETER,
    )
    def listing(request: Request, after: str | None = None, limit: Limit = 20) -> dict[str, Any]:
        page = jobs.list(tenant_of(request), after=after, limit=limit, metadata=metadata_filter(request))
        return {"object": "list", "data": [job_object(job) for job in page.data], "has_more": page.has_more}

    @api.get("/jobs/{job_id}", summary="Retrieve fine-tuning job", responses=ONE_JOB)
    def retrieve(job_id: str, request: Request) -> dict[str, Any]:
        return job_object(jobs.get(tenant_of(request), job_id))

    @api.post("/jobs/{job_id}/cancel", summary="Cancel fine-tuning job", responses=ONE_JOB)
    def cancel(job_id: str, request: Request) -> dict[str, Any]:
        return job_object(jobs.cancel(tenant_of(request), job_id))

    @api.post("/jobs/{job_id}/pause", summary="Pause fine-tuning job", responses=ONE_JOB)
    def pause(job_id: str, request: Request) -> dict[str, Any]:
        return job_object(jobs.pause(tenant_of(request), job_id))

    @api.post("/jobs/{job_id}/resume", summary="Resume fine-tuning job", responses=ONE_JOB)
    def resume(job_id: str, request: Request) -> dict[str, Any]:
        return job_object(jobs.resume(tenant_of(request), job_id))

    @api.get(
        "/jobs/{job_id}/events",
        summary="List fine-tuning events",
        responses=answers(shapes.FineTuningEventList),
    )
    def events(job_id: str, request: Request, after: str | None = None, limit: Limit = 20) -> dict[str, Any]:
        page = jobs.events(tenant_of(request), job_id, after=after, limit=limit)
        return {"object": "list", "data": [event_object(e) for e in page.data], "has_more": page.has_more}

    @api.get(
        "/jobs/{job_id}/checkpoints",
        summary="List fine-tuning checkpoints",
        responses=answers(shapes.FineTuningCheckpointList),
    )
    def checkpoints(
        job_id: str, request: Request, after: str | None = None, limit: Limit = 10
    ) -> dict[str, Any]:
        page = jobs.checkpoints(tenant_of(request), job_id, after=after, limit=limit)
        return list_object(page, checkpoint_object, no_id=None)

    return api


def job_request(body: CreateJobRequest, tenant: str, files: Files, config: ServingConfig) -> JobRequest:
    """What a job is made of, from what a caller sends.

    Raises InvalidInput naming the field: an unknown model or file, a file that is not for training.
    """
    model = _base(body.model, config.tunable)
    method = body.method_type
    training = _file(files, tenant, body.training_file, "training_file", method)
    validation = None
    if body.validation_file:
        validation = _file(files, tenant, body.validation_file, "validation_file", method)
    chosen = body.decided(int(training.details.get("rows") or 0))
    seed = body.seed_or_new()
    return JobRequest(
        model=body.model,
        training_file=training.id,
        validation_file=validation.id if validation else None,
        method={"type": method, method: {"hyperparameters": chosen.to_json()}},
        hyperparameters=chosen.to_json(),
        suffix=body.suffix,
        seed=seed,
        labels=body.metadata,
        config=finetune_config(
            config.fine_tuning,
            chosen,
            model=model,
            training_data=training.uri,
            validation_data=validation.uri if validation else None,
            suffix=body.suffix,
            seed=seed,
        ),
    )


def _base(name: str, tunable: Sequence[str]) -> str:
    """The reference of a model that may be tuned, by its reference or its short name."""
    for reference in tunable:
        if name in (reference, slug(reference)):
            return reference
    known = ", ".join(map(slug, tunable))
    raise InvalidInput(
        f"{name!r} cannot be fine-tuned here; there are {known}", "model", "model_not_available"
    )


def _file(files: Files, tenant: str, file_id: str, param: str, method: str) -> File:
    file = require_file(files, tenant, file_id, param, TRAINING_PURPOSE)
    fitting = METHODS[file.details.get("task") or "sft"]
    if method != fitting:
        raise InvalidInput(
            f"{param}: {file_id} is for method {fitting}, not {method}; {REMEDIES[method]}",
            param,
            "invalid_training_file",
        )
    return file


def metadata_filter(request: Request) -> dict[str, str]:
    """`?metadata[team]=search` as `{"team": "search"}`. Raises InvalidInput for `metadata` in another form."""
    wanted = {}
    for name, value in request.query_params.multi_items():
        if match := METADATA_KEY.fullmatch(name):
            wanted[match[1]] = value
        elif name.startswith("metadata"):
            raise InvalidInput("metadata: name each label, as in metadata[team]=search", "metadata")
    return wanted
