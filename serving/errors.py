"""From errors to HTTP: the one table of statuses, and OpenAI's error object.

HamletError             its own status, type, param and code
body that is no JSON or breaks the schema   400, `param` names the first field at fault
anything else           500 with a request id and no detail; the detail goes to the log
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import orjson
from starlette.responses import Response

from cluster.errors import HamletError, InvalidInput, Unauthenticated

DEFAULT_RETRY_AFTER_S = 1.0
# Of 429 and 503, what a repeat does not change: storage is freed by deleting, a long answer takes as long again.
FINAL_CODES = frozenset({"insufficient_quota", "timeout"})


def error_body(error: HamletError) -> dict[str, Any]:
    """OpenAI's error object, with the details there are in `hamlet`."""
    body = {"message": error.message, "type": error.type, "param": error.param, "code": error.code}
    return {"error": body | ({"hamlet": error.details} if error.details else {})}


def error_response(
    error: HamletError, status: int | None = None, headers: Mapping[str, str] | None = None
) -> Response:
    """The whole answer; it is an ASGI application, so that middleware can send it too.

    `status` and `headers` are those of an HTTP error that has its own.
    """
    sent = _headers(error) | dict(headers or {})
    body = orjson.dumps(error_body(error))
    return Response(body, status or error.status, sent, media_type="application/json")


def _headers(error: HamletError) -> dict[str, str]:
    """`Retry-After` in whole seconds for what may succeed later; to a caller without a key, how to send one.

    The `openai` client repeats 409, 429 and 503 by itself, unless `x-should-retry` says not to.
    """
    if isinstance(error, Unauthenticated):
        return {"WWW-Authenticate": "Bearer"}
    headers = {}
    if error.status == 409 or error.code in FINAL_CODES:
        headers["x-should-retry"] = "false"
    if error.status in (429, 503):
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_s or DEFAULT_RETRY_AFTER_S)))
    return headers


def internal_error(request_id: str) -> HamletError:
    """What a caller sees of a fault of ours."""
    return HamletError(f"an internal error occurred; the log has it under request id {request_id}")


def renamed(error: HamletError, names: Mapping[str, str]) -> HamletError:
    """The error of a part, for a caller who sent its fields by these names.

    >>> error = renamed(InvalidInput("filters.key is 7", "filters.key"), {"filters": "hamlet.filters"})
    >>> error.param, error.message
    ('hamlet.filters', 'hamlet.filters.key is 7')
    """
    field = (error.param or "").partition(".")[0]
    if field not in names:
        return error
    message = error.message
    if message.startswith((f"{field}.", f"{field} ")):
        message = names[field] + message.removeprefix(field)
    return type(error)(message, names[field], error.code)


def from_validation(errors: Sequence[Mapping[str, Any]]) -> InvalidInput:
    """The first complaint of pydantic in one sentence that names the field.

    >>> from_validation([{"type": "extra_forbidden", "loc": ("foo",), "msg": "", "input": 1}]).param
    'foo'
    """
    first = errors[0]
    param = field_path(first["loc"])
    if first["type"] == "json_invalid":
        return InvalidInput(f"the body is no JSON: {first.get('ctx', {}).get('error', first['msg'])}", None)
    # `none_required`: a field of OpenAI's that is not offered, of which null alone asks for nothing.
    if first["type"] in ("extra_forbidden", "none_required"):
        return InvalidInput(
            f"unsupported parameter {param!r}: remove it from the request", param, "unsupported_parameter"
        )
    if first["type"] == "missing":
        return InvalidInput(f"missing required parameter {param!r}", param, "missing_required_parameter")
    return InvalidInput(f"{param}: {first['msg'].removeprefix('Value error, ')}", param)


def field_path(location: Sequence[str | int]) -> str:
    """`("messages", 1, "role")` as `messages[1].role`; names of union members are left out."""
    path = ""
    for part in location:
        if isinstance(part, int):
            path += f"[{part}]"
        elif part.isidentifier() and not _is_union_member(part):
            path += f".{part}" if path else part
    return path or "body"


def _is_union_member(part: str) -> bool:
    # pydantic puts the name of the tried alternative into the location: `str`, `int`, `TextPart`.
    return part in {"str", "int", "float", "bool"} or part[:1].isupper()
