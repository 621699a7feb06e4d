"""What happens to every HTTP request: an id, one log line, metrics, a span, and an answer even where ours fails."""

from __future__ import annotations

import logging
import re
import time
import uuid

from opentelemetry.trace import Span, SpanKind, StatusCode
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving import tracing
from serving.errors import error_response, internal_error
from serving.metrics import Metrics

log = logging.getLogger(__name__)

REQUEST_ID_HEADER = "x-request-id"
MAX_LOGGED_PATH = 200
# Probes come every second and say nothing.
_PROBES = frozenset({"/healthz", "/readyz"})
# What a caller may choose as an id: it goes to logs and headers as it is.
_CALLER_ID = re.compile(r"[A-Za-z0-9_.:-]{1,128}")


class RequestContext:
    """ASGI middleware. The id is in `scope["state"]["request_id"]`, in the answer's header and in the log.

    `sets_header` is False behind Ray Serve, which gives each request an id and each answer the header.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, sets_header: bool = True) -> None:
        self._app = app
        self._metrics = metrics
        self._sets_header = sets_header

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        request_id = _request_id(headers.get(REQUEST_ID_HEADER))
        scope.setdefault("state", {})["request_id"] = request_id
        is_probe = scope["path"] in _PROBES
        span = tracing.NO_SPAN if is_probe else tracing.start(scope["method"], headers, SpanKind.SERVER)
        started = time.perf_counter()
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                if self._sets_header:
                    message["headers"] = [*message["headers"], (b"x-request-id", request_id.encode())]
            await send(message)

        try:
            with tracing.current(span):
                await self._app(scope, receive, send_with_id)
        except Exception:
            log.exception("request %s failed", request_id)
            if status:
                raise
            await error_response(internal_error(request_id))(scope, receive, send_with_id)
        finally:
            self._tell(scope, request_id, status, (time.perf_counter() - started) * 1000)
            _end(span, scope, request_id, status)

    def _tell(self, scope: Scope, request_id: str, status: int, ms: float) -> None:
        path = _route(scope)
        self._metrics.count("requests", {"path": path, "status": str(status)})
        self._metrics.observe("request_ms", {"path": path}, ms)
        if scope["path"] not in _PROBES:
            log.info(
                "request_id=%s method=%s path=%r status=%d ms=%.1f",
                request_id,
                scope["method"],
                # A caller's words: in quotes, so that a line break in them forges no line of the log.
                scope["path"][:MAX_LOGGED_PATH],
                status,
                ms,
            )


def _route(scope: Scope) -> str:
    """The route's pattern, since paths that callers make up would be labels without end."""
    return getattr(scope.get("route"), "path", "unknown")


def _end(span: Span, scope: Scope, request_id: str, status: int) -> None:
    span.update_name(f"{scope['method']} {_route(scope)}")
    span.set_attributes(
        {
            "http.request.method": scope["method"],
            "http.route": _route(scope),
            "http.response.status_code": status,
            "hamlet.request_id": request_id,
        }
    )
    if status >= 500:
        span.set_status(StatusCode.ERROR)
    span.end()


def _request_id(asked: str | None) -> str:
    if asked and _CALLER_ID.fullmatch(asked):
        return asked
    return f"req_{uuid.uuid4().hex}"
