"""An HTTP/1.1 client that costs the measured server's cores as little as Python can.

Only what the benchmarks need: POST and GET with keep-alive, bodies by length or in chunks. A usual client
spends about a millisecond a request on the two cores that the server runs on.
"""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass, field
from typing import Any, Self
from urllib.parse import urlsplit


@dataclass
class Answer:
    """`pieces` are (seconds since the request was sent, bytes) as they arrived."""

    status: int
    seconds: float
    pieces: list[tuple[float, bytes]] = field(default_factory=list)

    @property
    def body(self) -> bytes:
        return b"".join(piece for _, piece in self.pieces)


class Connection:
    """One connection to a server, one request at a time."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "127.0.0.1", parts.port or 80
        self._reader: asyncio.StreamReader
        self._writer: asyncio.StreamWriter

    async def __aenter__(self) -> Self:
        self._reader, self._writer = await asyncio.open_connection(self._host, self._port, limit=2**24)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writer.close()

    async def send(self, path: str, body: bytes | None = None) -> Answer:
        method = "GET" if body is None else "POST"
        head = f"{method} {path} HTTP/1.1\r\nHost: {self._host}\r\nContent-Type: application/json\r\n"
        payload = body or b""
        started = time.perf_counter()
        self._writer.write(f"{head}Content-Length: {len(payload)}\r\n\r\n".encode() + payload)
        lines = (await self._reader.readuntil(b"\r\n\r\n")).lower().split(b"\r\n")
        answer = Answer(int(lines[0].split()[1]), 0.0)
        headers = dict(line.split(b": ", 1) for line in lines[1:] if b": " in line)
        if b"content-length" in headers:
            piece = await self._reader.readexactly(int(headers[b"content-length"]))
            answer.pieces.append((time.perf_counter() - started, piece))
        else:
            while size := int((await self._reader.readuntil(b"\r\n"))[:-2], 16):
                piece = (await self._reader.readexactly(size + 2))[:-2]
                answer.pieces.append((time.perf_counter() - started, piece))
            await self._reader.readexactly(2)
        answer.seconds = time.perf_counter() - started
        return answer


async def run(url: str, path: str, bodies: list[Any], concurrency: int) -> tuple[float, list[Answer]]:
    """Send every body as JSON (None: a GET), `concurrency` at a time; seconds in all and the answers.

    Raises RuntimeError with the first answer that is not a 200.
    """
    waiting = iter([None if body is None else json.dumps(body).encode() for body in bodies])
    answers: list[Answer] = []

    async def work() -> None:
        async with Connection(url) as connection:
            for body in waiting:
                answer = await connection.send(path, body)
                if answer.status != 200:
                    raise RuntimeError(f"{url}{path}: {answer.status} {answer.body[:500]!r}")
                answers.append(answer)

    started = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(concurrency)))
    return time.perf_counter() - started, answers
