"""Tokens straight from a generator replica to the router, beside Ray's own path.

A Serve call that streams costs about two milliseconds of CPU for each item, on the cores that generate
the tokens. Here the call itself stays what Serve routes, counts, queues and cancels, but it returns only
the number of events; the events travel on one connection from each replica to each router.

    router: Inbox.open() -> ReplyTo  --Serve call-->  replica: Outbox.send(reply_to, event) -> Inbox -> reader

Frames are a length, the key of a request, and JSON; nothing that arrives here is ever unpickled. A
connection must begin with the inbox's secret, which only a Serve call carries.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
import secrets
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any

import orjson

from cluster.errors import InvalidInput, Unavailable
from serving.engine import CallDelta, Delta, TokenLogprob
from serving.generator import Answer, Completion, Progress, PromptReport, ToolCall

log = logging.getLogger(__name__)

Event = PromptReport | list[Delta] | Progress | Completion
Connecting = asyncio.Task[tuple[asyncio.StreamReader, asyncio.StreamWriter]]

KEY_BYTES = 16
SECRET_BYTES = 32
MAX_FRAME_BYTES = 64 * 2**20
# After the call has ended: how long its last events may still be on their way.
LATE_S = 5.0


@dataclass(frozen=True, slots=True)
class ReplyTo:
    """Where the events of one request go."""

    host: str
    port: int
    secret: bytes
    key: bytes


def encode(event: Event) -> bytes:
    """An event as JSON: its kind, then its fields in order."""
    if isinstance(event, PromptReport):
        return orjson.dumps(["report", event.num_prompt_tokens, event.num_passages, event.num_turns_dropped])
    if isinstance(event, Progress):
        return orjson.dumps(["progress", event.num_tokens])
    if isinstance(event, Completion):
        answers = [
            [a.text, a.num_tokens, a.finish_reason, _plain(a.logprobs), [*map(list, a.calls)]]
            for a in event.answers
        ]
        report = event.report
        return orjson.dumps(
            ["whole", report.num_prompt_tokens, report.num_passages, report.num_turns_dropped, answers]
        )
    return orjson.dumps(
        [
            "deltas",
            *(
                [d.index, d.text, d.num_tokens, d.finish_reason, _plain(d.logprobs), [*map(list, d.calls)]]
                for d in event
            ),
        ]
    )


def decode(data: bytes) -> Event:
    """The event that `encode` wrote."""
    kind, *fields = orjson.loads(data)
    if kind == "report":
        return PromptReport(*fields)
    if kind == "progress":
        return Progress(*fields)
    if kind == "whole":
        *report, answers = fields
        return Completion(
            PromptReport(*report),
            tuple(
                Answer(text, num, finish, _logprobs(tokens), tuple(ToolCall(*call) for call in calls))
                for text, num, finish, tokens, calls in answers
            ),
        )
    return [
        Delta(index, text, num, finish, _logprobs(tokens), tuple(CallDelta(*call) for call in calls))
        for index, text, num, finish, tokens, calls in fields
    ]


def _plain(tokens: tuple[TokenLogprob, ...]) -> list[Any]:
    return [[token.token, token.logprob, token.top] for token in tokens]


def _logprobs(tokens: list[Any]) -> tuple[TokenLogprob, ...]:
    return tuple(TokenLogprob(text, value, tuple(map(tuple, top))) for text, value, top in tokens)


class Inbox:
    """The router's end. Listens from the first `open` on; belongs to one event loop."""

    def __init__(self, host: str) -> None:
        self._host = host
        self._secret = secrets.token_bytes(SECRET_BYTES)
        self._readers: dict[bytes, asyncio.Queue[Any]] = {}
        self._server: asyncio.Server | None = None
        self._starting = asyncio.Lock()

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncGenerator[tuple[ReplyTo, asyncio.Queue[Any]]]:
        """An address for one request and the queue of its events."""
        async with self._starting:
            if self._server is None:
                self._server = await asyncio.start_server(self._accept, self._host, 0)
        port = self._server.sockets[0].getsockname()[1]
        reply_to = ReplyTo(self._host, port, self._secret, secrets.token_bytes(KEY_BYTES))
        queue: asyncio.Queue[Any] = asyncio.Queue()
        self._readers[reply_to.key] = queue
        try:
            yield reply_to, queue
        finally:
            del self._readers[reply_to.key]

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if not hmac.compare_digest(await reader.readexactly(SECRET_BYTES), self._secret):
                log.warning("a connection without the secret was closed")
                return
            while True:
                size = int.from_bytes(await reader.readexactly(4), "big")
                if not KEY_BYTES <= size <= MAX_FRAME_BYTES:
                    log.warning("a frame of %d bytes; the connection is closed", size)
                    return
                frame = await reader.readexactly(size)
                # A reader that has left: its events may still arrive for a moment.
                if (queue := self._readers.get(frame[:KEY_BYTES])) is not None:
                    queue.put_nowait(decode(frame[KEY_BYTES:]))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the replica has gone; its calls tell
        finally:
            writer.close()


class Outbox:
    """A replica's end: one connection to each router that has asked it for something."""

    def __init__(self) -> None:
        self._connections: dict[tuple[str, int], Connecting] = {}

    async def send(self, reply_to: ReplyTo, event: Event) -> None:
        """Pass an event on.

        Raises Unavailable when the router cannot be reached, and InvalidInput for an event that is too long.
        """
        payload = encode(event)
        num_bytes = KEY_BYTES + len(payload)
        if num_bytes > MAX_FRAME_BYTES:
            # Of the caller's making, and as long when it is asked for again.
            raise InvalidInput(
                f"the answer has {num_bytes / 2**20:.0f} MiB, and {MAX_FRAME_BYTES / 2**20:.0f} are sent at once; "
                "ask for fewer answers, tokens or log probabilities, or for a stream"
            )
        frame = num_bytes.to_bytes(4, "big") + reply_to.key + payload
        try:
            writer = await self._writer(reply_to)
            writer.write(frame)
            await writer.drain()
        except OSError as exc:
            raise Unavailable(f"the router at {reply_to.host}:{reply_to.port} cannot be reached") from exc

    async def close(self) -> None:
        for connecting in self._connections.values():
            with contextlib.suppress(OSError):  # the router has gone, and whoever began to connect has left
                _, writer = await connecting
                writer.close()

    async def _writer(self, reply_to: ReplyTo) -> asyncio.StreamWriter:
        address = (reply_to.host, reply_to.port)
        connecting = self._connections.get(address)
        if connecting is None or _has_ended(connecting):
            self._forget_ended()
            connecting = self._connections[address] = asyncio.ensure_future(_connect(reply_to))
        # Shielded: the request that began to connect may be cancelled while others wait for the same.
        _, writer = await asyncio.shield(connecting)
        return writer

    def _forget_ended(self) -> None:
        """Give the sockets back of routers that have gone: every one that starts has a new port."""
        for address, connecting in [*self._connections.items()]:
            if _has_ended(connecting):
                del self._connections[address]
                if connecting.exception() is None:
                    connecting.result()[1].close()


def _has_ended(connecting: Connecting) -> bool:
    """Whether it failed, or either end was closed since."""
    if not connecting.done():
        return False
    if connecting.exception() is not None:
        return True
    reader, writer = connecting.result()
    return writer.is_closing() or reader.at_eof()  # a router sends nothing but its end


async def _connect(reply_to: ReplyTo) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection(reply_to.host, reply_to.port)
    writer.write(reply_to.secret)
    return reader, writer


async def received(call: asyncio.Future[int], queue: asyncio.Queue[Any]) -> AsyncGenerator[Event]:
    """The events of one request, until as many have come as `call` says were sent.

    Raises what `call` raises, and Unavailable when it is given up or events are lost.
    """
    call.add_done_callback(queue.put_nowait)
    num_received, num_sent = 0, -1
    while num_received != num_sent:
        try:
            # Only what was sent before the call ended can still be on its way.
            async with asyncio.timeout(LATE_S if num_sent >= 0 else None):
                item = await queue.get()
        except TimeoutError as exc:
            raise Unavailable("the answer was lost on its way to the router") from exc
        if item is call:
            if call.cancelled():  # by Ray Serve: a reader who cancels it is gone
                raise Unavailable("the answer was given up; try again", retry_after_s=1)
            num_sent = call.result()
        else:
            num_received += 1
            yield item
