"""How much of a body is read into memory: what is longer would fill the router, and serves no request of this API."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.uploads import whole_number

MAX_BODY_BYTES = 8 * 1024**2
# What goes to disk as it comes, below a limit of its own.
UPLOADS = ("POST", "/v1/files")


class BodyLimit:
    """ASGI middleware: a body that is longer, or says that it will be, is answered with 413."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or (scope["method"], scope["path"]) == UPLOADS:
            await self._app(scope, receive, send)
            return
        declared = whole_number(Headers(scope=scope).get("content-length", "")) or 0
        num_bytes = 0

        async def counted() -> Message:
            nonlocal num_bytes
            # Before anything is read: who sends `Expect: 100-continue` is not told to go on.
            _require(declared)
            message = await receive()
            num_bytes += len(message.get("body", b""))
            _require(num_bytes)
            return message

        await self._app(scope, counted, send)


def _require(num_bytes: int) -> None:
    if num_bytes > MAX_BODY_BYTES:
        # The one exception that FastAPI lets through from the reading of a body.
        limit = f"{MAX_BODY_BYTES / 1024**2:g} MiB"
        raise HTTPException(413, f"the body is longer than {limit}, the most that is read; send less at once")
