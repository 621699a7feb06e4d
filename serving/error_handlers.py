"""Exceptions of the endpoints as HTTP answers, each with OpenAI's error object."""

from __future__ import annotations

import logging

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from sqlalchemy.exc import DataError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Route

from cluster.errors import (
    HamletError,
    InvalidInput,
    NotFound,
    TooLarge,
    Unavailable,
    UnsupportedMediaType,
)
from serving.errors import error_response, from_validation
from serving.sse import ClientGone, tell_gone

log = logging.getLogger(__name__)

# Nobody reads it: the client has closed the connection.
STATUS_CLIENT_GONE = 499
# The database does not answer, or all of our connections to it are waiting.
DATABASE_AWAY = (OperationalError, PoolTimeout)
# Of a caller's header, in a message.
MAX_SHOWN_TYPE = 100


def add_error_handlers(app: FastAPI) -> None:
    """What is not listed here is a fault of ours, which `requests` answers."""
    app.add_exception_handler(HamletError, on_hamlet_error)
    app.add_exception_handler(RequestValidationError, _on_validation_error)
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_exception_handler(ClientGone, _on_client_gone)
    app.add_exception_handler(ClientDisconnect, _on_client_gone)
    for away in DATABASE_AWAY:
        app.add_exception_handler(away, _on_database_error)
    app.add_exception_handler(DataError, _on_database_refusal)


async def on_hamlet_error(_request: Request, exc: Exception) -> Response:
    assert isinstance(exc, HamletError)
    return error_response(exc)


async def _on_validation_error(request: Request, exc: Exception) -> Response:
    assert isinstance(exc, RequestValidationError)
    if isinstance(exc.body, bytes):  # FastAPI reads as JSON only what says that it is
        return error_response(UnsupportedMediaType(_not_json(request.headers.get("content-type"))))
    # FastAPI puts the part of the request before the field: body, query or path.
    faults = [{**fault, "loc": fault["loc"][1:]} for fault in exc.errors()]
    return error_response(from_validation(faults))


def _not_json(media_type: str | None) -> str:
    sent = f"is sent as {media_type[:MAX_SHOWN_TYPE]!r}" if media_type else "says no type"
    return f"the body {sent}; send JSON with the header Content-Type: application/json"


async def _on_http_error(request: Request, exc: Exception) -> Response:
    assert isinstance(exc, HTTPException)
    if exc.status_code == 400 and (encoding := request.headers.get("content-encoding")):
        message = f"a body in Content-Encoding {encoding[:MAX_SHOWN_TYPE]!r} is not read; send it as it is"
        return error_response(UnsupportedMediaType(message))
    if exc.status_code == 400:
        # FastAPI's for a body that Python cannot read: no UTF-8, numbers of thousands of digits, too deeply nested.
        return error_response(InvalidInput("the body cannot be read as JSON; send JSON in UTF-8"))
    if exc.status_code == 413:
        return error_response(TooLarge(exc.detail, code="body_too_large"))
    error = NotFound(f"no such path or method: {request.method} {request.url.path}", code="unknown_url")
    headers = {"Allow": ", ".join(methods_of(request))} if exc.status_code == 405 else exc.headers
    return error_response(error, exc.status_code, headers)


def methods_of(request: Request) -> list[str]:
    """The methods that the path of a request has. Starlette names those of the first route of the path alone."""
    routes = [route for route in request.app.routes if isinstance(route, Route)]
    path = request.scope["path"]
    return sorted({m for route in routes if route.path_regex.match(path) for m in route.methods or ()})


async def _on_database_error(request: Request, exc: Exception) -> Response:
    log.error("request %s: the state database does not answer: %s", request.state.request_id, exc)
    return await on_hamlet_error(
        request, Unavailable("the state database does not answer; try again shortly", retry_after_s=5)
    )


async def _on_database_refusal(request: Request, exc: Exception) -> Response:
    # PostgreSQL takes no NUL in a text, and SQLite does: it is no part of any id, name or label.
    log.info("request %s: refused by the database: %s", request.state.request_id, exc)
    return await on_hamlet_error(
        request, InvalidInput("a value cannot be stored or looked up; remove NUL characters from it")
    )


async def _on_client_gone(request: Request, _exc: Exception) -> Response:
    tell_gone(request.state.request_id)
    return Response(status_code=STATUS_CLIENT_GONE)
