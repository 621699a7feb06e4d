"""Following a Ray job to its real end, whatever happens to its log stream on the way."""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import aiohttp

from cluster import dashboard
from cluster.connection import dashboard_url, prepare_client
from cluster.errors import NotFound, Unavailable

log = logging.getLogger(__name__)

TERMINAL = frozenset({"SUCCEEDED", "FAILED", "STOPPED"})

# requests raises OSErrors, Ray's client RuntimeErrors.
OUT_OF_REACH = (aiohttp.ClientError, OSError, RuntimeError)

# How Ray begins a job's log; where the command was quick, this comes behind what the command wrote.
FIRST_LINE = "Running entrypoint for job "

# The head may be busy, or restarting under KubeRay; after this long without an answer it is gone.
SILENCE_LIMIT_S = 60.0


class JobClient(Protocol):
    """The part of Ray's JobSubmissionClient that following needs; tests hand in a fake."""

    def tail_job_logs(self, job_id: str) -> AsyncIterator[str]:
        """The log from its beginning, in chunks, until the stream closes for whatever reason."""

    def get_job_logs(self, job_id: str) -> str:
        """The whole log so far."""

    def get_job_status(self, job_id: str) -> str:
        """PENDING, RUNNING, or one of TERMINAL."""


@dataclass
class LogCursor:
    """Lets each character of a log through once, though every stream of it begins at the beginning."""

    taken: int = 0
    position: int = 0

    def restart(self) -> None:
        """A new stream begins."""
        self.position = 0

    def take(self, chunk: str) -> str:
        """The part of `chunk` that was not taken before."""
        start = max(self.taken - self.position, 0)
        self.position += len(chunk)
        self.taken = max(self.taken, self.position)
        return chunk[start:]


def job_client(address: str | None = None) -> Any:
    """Ray's JobSubmissionClient, by default of the head that runs here, of which no call waits for ever.

    Raises Unavailable when nothing answers there, or it refuses our token.
    """
    url = address or dashboard_url()
    # Ray's client tells silence, a refused token and a foreign server by errors of three kinds.
    dashboard.ray_version(url, SILENCE_LIMIT_S)
    prepare_client()
    from ray.job_submission import JobSubmissionClient

    client = JobSubmissionClient(url)
    # It sets no limit of its own, and a head that hangs closes no connection.
    client._do_request = partial(client._do_request, timeout=SILENCE_LIMIT_S)
    return client


def follow(job_id: str, address: str | None = None, write: Callable[[str], object] | None = None) -> str:
    """Write a job's log as it grows and return its final status: SUCCEEDED, FAILED or STOPPED.

    `address` is the dashboard's URL, by default of the head that runs here; `write` gets the text, by
    default stdout. Raises NotFound for an unknown job, Unavailable when the head is gone or refuses our token.
    """
    url = address or dashboard_url()
    client = job_client(url)
    try:
        client.get_job_status(job_id)
    except RuntimeError as exc:
        raise NotFound(f"no job {job_id} at {url}; list them with: ray job list --address {url}") from exc
    return asyncio.run(follow_with(client, job_id, write or _to_stdout))


async def follow_with(
    client: JobClient,
    job_id: str,
    write: Callable[[str], object],
    poll_s: float = 0.5,
    silence_limit_s: float = SILENCE_LIMIT_S,
) -> str:
    """`follow` over a client.

    The end of the stream says nothing: Ray closes it in the same way when a job is done and when a proxy or
    the head goes away, and leaves it open for 5 s after a job has ended. So the status is asked for all the
    while, and a stream that closed is taken up again where it stopped.
    """
    cursor = LogCursor()
    last_answer = time.monotonic()
    stream = asyncio.create_task(_copy(client, job_id, cursor, write))
    try:
        while True:
            await asyncio.sleep(poll_s)
            try:
                status = str(await asyncio.to_thread(client.get_job_status, job_id))
                last_answer = time.monotonic()
                if status in TERMINAL:
                    await _cancelled(stream)
                    # What the stream had not brought yet.
                    cursor.restart()
                    write(cursor.take(await asyncio.to_thread(client.get_job_logs, job_id)))
                    return status
            except OUT_OF_REACH as exc:
                if time.monotonic() - last_answer > silence_limit_s:
                    raise Unavailable(
                        f"the head has not answered for {silence_limit_s:.0f} s; job {job_id} may still run: "
                        f"ask with ray job status {job_id}"
                    ) from exc
            if stream.done():
                stream = asyncio.create_task(_copy(client, job_id, cursor, write))
    finally:
        await _cancelled(stream)


async def _copy(client: JobClient, job_id: str, cursor: LogCursor, write: Callable[[str], object]) -> None:
    """Write what is new in one stream, until it closes."""
    cursor.restart()
    try:
        async for chunk in client.tail_job_logs(job_id):
            write(cursor.take(chunk))
    except OUT_OF_REACH as exc:
        log.debug("the log stream of %s broke off: %s", job_id, exc)


async def _cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


def exit_code(status: str) -> int:
    """0 for a job that succeeded, 1 for every other end."""
    return 0 if status == "SUCCEEDED" else 1


def _to_stdout(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
