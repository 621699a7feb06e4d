"""Server-sent events whose reader may leave: the stream is closed the moment the client is gone."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Any, TypeVar

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

Result = TypeVar("Result")

HEADERS = {
    "cache-control": "no-cache",
    # Asks nginx and its like not to collect the events before passing them on.
    "x-accel-buffering": "no",
}

# How long a full connection may take nothing of an answer. Under Ray Serve none is ever full for the application: all
# messages go into a queue, unless user code shares the replica's event loop.
STALLED_S = 60.0

log = logging.getLogger(__name__)


class ClientGone(Exception):
    """The client closed the connection before it had its answer."""


def tell_gone(request_id: str) -> None:
    log.info("request %s: cancelled, the client has left", request_id)


class EventStream(Response):
    """Sends each item of `events` as it comes, and closes `events` when the client disconnects or reads no more.

    `after` is called at the end, whatever that is: also when the answer is cancelled before it has begun.
    Starlette's own streaming response notices a lost client only when the next chunk is sent.
    """

    media_type = "text/event-stream"

    def __init__(self, events: AsyncGenerator[bytes], after: Callable[[], None]) -> None:
        self.status_code = 200
        self.background = None
        self._events = events
        self._after = after
        self.init_headers(HEADERS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        head = {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
        try:
            async with aclosing(self._events):
                await send(head)
                await unless_gone(self._send_all(send), receive)
        except ClientGone:
            tell_gone(scope["state"]["request_id"])
        finally:
            self._after()

    async def _send_all(self, send: Send) -> None:
        async for event in self._events:
            await _taken(send({"type": "http.response.body", "body": event, "more_body": True}))
        await _taken(send({"type": "http.response.body", "body": b"", "more_body": False}))


async def _taken(sending: Awaitable[None]) -> None:
    """Raises ClientGone for a client that keeps its connection and reads nothing: it would keep its place too."""
    try:
        async with asyncio.timeout(STALLED_S):
            await sending
    except TimeoutError as exc:
        raise ClientGone from exc


async def unless_gone(work: Awaitable[Result], receive: Receive) -> Result:
    """The result of `work`, which is cancelled when the client leaves. Raises ClientGone then.

    The request's body must have been read: what `receive` brings next is the disconnect.
    """
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_disconnect(receive))
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientGone
        return working.result()
    finally:
        for task in (working, leaving):
            task.cancel()
        # Cancelled work gives back its place in the engine before this returns.
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _disconnect(receive: Receive) -> None:
    message: Any = {}
    while message.get("type") != "http.disconnect":
        message = await receive()
