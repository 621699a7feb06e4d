"""The header Idempotency-Key (draft-ietf-httpapi-idempotency-key-header), and the fingerprint of what is asked for."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated

from fastapi import Header
from pydantic import AfterValidator, WithJsonSchema

from cluster.errors import InvalidInput
from cluster.idempotency import HEADER, IdempotencyKey
from serving.bodies import Body
from serving.uploads import Upload

MAX_LENGTH = 255
DESCRIPTION = "Your own name for this request, such as a UUID: sent again with it, it makes nothing twice."


def _of_fitting_length(name: str) -> str:
    if not 1 <= len(name) <= MAX_LENGTH:
        raise InvalidInput(f"{HEADER} has {len(name)} characters; send 1 to {MAX_LENGTH}", HEADER)
    return name


KeyName = Annotated[
    str,
    AfterValidator(_of_fitting_length),
    WithJsonSchema({"type": "string", "minLength": 1, "maxLength": MAX_LENGTH}),
]
KeyHeader = Annotated[KeyName | None, Header(alias=HEADER, description=DESCRIPTION)]


def key_of(name: str | None, body: Body, place: str = "") -> IdempotencyKey | None:
    """The key of a request with this body; `place` is the id in its path, where that has one."""
    if name is None:
        return None
    # Fields that were not sent stay out: a later version may have more of them.
    return _key(name, place, body.model_dump_json(exclude_unset=True))


def key_of_upload(name: str | None, upload: Upload) -> IdempotencyKey | None:
    """The key of an upload; its bytes are read for it."""
    if name is None:
        return None
    with upload.path.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    return _key(name, digest, upload.filename, json.dumps(upload.fields, sort_keys=True))


def _key(name: str, *asked: str) -> IdempotencyKey:
    return IdempotencyKey(name, hashlib.sha256("\0".join(asked).encode()).hexdigest())
