"""`/v1/files`: uploads that are durable before they are acknowledged, in OpenAI's shapes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Annotated, Any, BinaryIO, Literal
from urllib.parse import quote

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import StreamingResponse
from starlette.concurrency import run_in_threadpool

from cluster.errors import InvalidInput, NotFound
from cluster.files import File, Files
from serving import object_schemas as shapes
from serving.authentication import tenant_of
from serving.config import ServingConfig
from serving.idempotency import KeyHeader, key_of_upload
from serving.lists import list_object
from serving.openapi import answers, routes_of
from serving.training_commands import TrainingCommands
from serving.uploads import Upload, received, whole_number

PURPOSES = ("fine-tune", "assistants", "user_data", "batch", "vision", "evals")
TRAINING_PURPOSE = "fine-tune"
EXPIRY_S = (3600, 2_592_000)
# OpenAI's: files for batches go by themselves.
BATCH_EXPIRY_S = 30 * 24 * 3600
CHUNK_BYTES = 1024 * 1024

# What `received` reads: FastAPI knows nothing of it, as it reads the body itself.
UPLOAD_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file", "purpose"],
                    "properties": {
                        "file": {"type": "string", "format": "binary"},
                        "purpose": {"type": "string", "enum": list(PURPOSES)},
                        "expires_after[anchor]": {"type": "string", "enum": ["created_at"]},
                        "expires_after[seconds]": {
                            "type": "integer",
                            "minimum": EXPIRY_S[0],
                            "maximum": EXPIRY_S[1],
                        },
                    },
                    "additionalProperties": False,
                    "dependentRequired": {
                        "expires_after[anchor]": ["expires_after[seconds]"],
                        "expires_after[seconds]": ["expires_after[anchor]"],
                    },
                }
            }
        },
    }
}
CONTENT_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {"content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}}
}

FilePage = Annotated[int, Query(ge=1, le=10_000)]


class FileContent(StreamingResponse):
    media_type = "application/octet-stream"


def router(files: Files, commands: TrainingCommands, config: ServingConfig) -> APIRouter:
    """The endpoints over `files`; `commands` check training files."""
    api = routes_of("Files", "/v1/files")

    @api.post("", summary="Upload file", responses=answers(shapes.File), openapi_extra=UPLOAD_BODY)
    async def create(request: Request, key_name: KeyHeader = None) -> dict[str, Any]:
        """Kept once this is answered. A training file is checked first; all its faults are told by line."""
        async with received(request, config.files.max_bytes) as upload:
            purpose = _purpose(upload)
            expires_in_s = expiry(upload.fields, purpose)
            # Checking takes minutes, and Ray Serve gives the event loop few threads, which every request needs.
            file = await run_in_threadpool(_keep, upload, purpose, expires_in_s, tenant_of(request), key_name)
        return file_object(file)

    def _keep(
        upload: Upload, purpose: str, expires_in_s: float | None, tenant: str, key_name: str | None
    ) -> File:
        key = key_of_upload(key_name, upload)
        if made := files.made_before(tenant, key):
            return made
        max_bytes = config.limits.storage_bytes_per_tenant
        # Before the check of its rows, which takes its time.
        files.require_room(tenant, upload.path.stat().st_size, max_bytes)
        report = None
        if purpose == TRAINING_PURPOSE:
            report = commands.validate(upload.path, upload.filename)
        expires_at = time.time() + expires_in_s if expires_in_s is not None else None
        file = files.stored(
            tenant, upload.filename, purpose, upload.path, expires_at=expires_at, details=report, key=key
        )
        return files.add(file, max_bytes)

    @api.get("", summary="List files", responses=answers(shapes.FileList))
    def listing(
        request: Request,
        purpose: str | None = None,
        after: str | None = None,
        limit: FilePage = 10_000,
        order: Literal["asc", "desc"] = "desc",
    ) -> dict[str, Any]:
        page = files.list(
            tenant_of(request), purpose=purpose, after=after, limit=limit, ascending=order == "asc"
        )
        return list_object(page, file_object)

    @api.get("/{file_id}", summary="Retrieve file", responses=answers(shapes.File))
    def retrieve(file_id: str, request: Request) -> dict[str, Any]:
        return file_object(files.get(tenant_of(request), file_id))

    @api.get(
        "/{file_id}/content", summary="Download file", response_class=FileContent, responses=CONTENT_ANSWERS
    )
    def content(file_id: str, request: Request) -> StreamingResponse:
        file = files.get(tenant_of(request), file_id)
        # Before the answer begins: later it could say no more that the bytes are missing or out of reach.
        stream = files.open(file)
        return FileContent(_chunks(stream), headers=_content_headers(file))

    @api.head("/{file_id}/content", include_in_schema=False)
    def content_head(file_id: str, request: Request) -> Response:
        """How large a download will be, for whoever asks before it."""
        file = files.get(tenant_of(request), file_id)
        files.open(file).close()  # so that it fails as the download would
        return Response(headers=_content_headers(file), media_type=FileContent.media_type)

    @api.delete("/{file_id}", summary="Delete file", responses=answers(shapes.DeletedFile))
    def delete(file_id: str, request: Request) -> dict[str, Any]:
        file = files.delete(tenant_of(request), file_id)
        return {"id": file.id, "object": "file", "deleted": True}

    return api


def require_file(files: Files, tenant: str, file_id: str, param: str, purpose: str) -> File:
    """The file that field `param` of a body names. Raises InvalidInput where there is none of this purpose."""
    try:
        file = files.get(tenant, file_id)
    except NotFound as exc:
        raise InvalidInput(f"{param}: no file {file_id!r}; upload it first", param, "file_not_found") from exc
    if file.purpose != purpose:
        raise InvalidInput(
            f"{param}: {file_id} was uploaded for {file.purpose}; upload it with purpose {purpose}",
            param,
            "invalid_file_purpose",
        )
    return file


def file_object(file: File) -> dict[str, Any]:
    """OpenAI's file object; what the validation found is in `hamlet`."""
    body: dict[str, Any] = {
        "id": file.id,
        "object": "file",
        "bytes": file.num_bytes,
        "created_at": int(file.created_at),
        "filename": file.filename,
        "purpose": file.purpose,
        "status": "processed",
    }
    if file.expires_at is not None:
        body["expires_at"] = int(file.expires_at)
    return body | ({"hamlet": file.details} if file.details else {})


def expiry(fields: dict[str, str], purpose: str) -> float | None:
    """Seconds until a file of this upload expires, None for never. Raises InvalidInput.

    >>> expiry({"expires_after[anchor]": "created_at", "expires_after[seconds]": "3600"}, "user_data")
    3600
    """
    anchor, asked = fields.get("expires_after[anchor]"), fields.get("expires_after[seconds]")
    if anchor is None and asked is None:
        return BATCH_EXPIRY_S if purpose == "batch" else None
    least, most = EXPIRY_S
    if anchor != "created_at":
        raise InvalidInput("expires_after.anchor must be created_at", "expires_after.anchor")
    seconds = whole_number(asked or "")
    if seconds is None or not least <= seconds <= most:
        raise InvalidInput(f"expires_after.seconds must be {least} to {most}", "expires_after.seconds")
    return seconds


def _purpose(upload: Upload) -> str:
    purpose = upload.fields.get("purpose")
    if purpose is None:
        raise InvalidInput("missing required parameter 'purpose'", "purpose", "missing_required_parameter")
    if purpose not in PURPOSES:
        raise InvalidInput(f"purpose must be one of {', '.join(PURPOSES)}; got {purpose!r}", "purpose")
    known = {"purpose", "expires_after[anchor]", "expires_after[seconds]"}
    if unknown := sorted(upload.fields.keys() - known):
        raise InvalidInput(
            f"unsupported parameter {unknown[0]!r}: remove it from the request",
            unknown[0],
            "unsupported_parameter",
        )
    return purpose


def _content_headers(file: File) -> dict[str, str]:
    return {
        "content-disposition": f"attachment; filename*=UTF-8''{quote(file.filename)}",
        "content-length": str(file.num_bytes),
    }


def _chunks(stream: BinaryIO) -> Iterator[bytes]:
    with stream:
        while chunk := stream.read(CHUNK_BYTES):
            yield chunk
