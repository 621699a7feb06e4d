"""Following a job: its status decides, not its log stream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest

from cluster.dashboard import TokenRefused
from cluster.errors import Unavailable
from cluster.jobs import LogCursor, exit_code, follow, follow_with


class FakeJobs:
    """A job of `lines`, whose stream gives the next of `streams` lines and then closes or breaks."""

    def __init__(
        self, lines: list[str], streams: list[int], final: str = "SUCCEEDED", fault: str = ""
    ) -> None:
        self.lines = lines
        self.streams = streams
        self.final = final
        self.fault = fault
        self.num_streams = 0

    async def tail_job_logs(self, job_id: str) -> AsyncIterator[str]:
        count = self.streams[min(self.num_streams, len(self.streams) - 1)]
        self.num_streams += 1
        for line in self.lines[:count]:
            yield line
        if self.fault and self.num_streams < len(self.streams):
            raise RuntimeError(self.fault)

    def get_job_logs(self, job_id: str) -> str:
        return "".join(self.lines)

    def get_job_status(self, job_id: str) -> str:
        return self.final if self.num_streams >= len(self.streams) else "RUNNING"


def followed(jobs: FakeJobs, silence_limit_s: float = 60.0) -> tuple[str, str]:
    written: list[str] = []
    status = asyncio.run(
        follow_with(jobs, "job", written.append, poll_s=0.0, silence_limit_s=silence_limit_s)
    )
    return status, "".join(written)


LINES = ["one\n", "two\n", "three\n"]


def test_a_stream_that_closes_early_is_taken_up_again_without_repeats() -> None:
    jobs = FakeJobs(LINES, streams=[1, 2, 3])
    assert followed(jobs) == ("SUCCEEDED", "one\ntwo\nthree\n")
    assert jobs.num_streams == 3


def test_a_stream_that_breaks_is_taken_up_again() -> None:
    jobs = FakeJobs(LINES, streams=[2, 3], fault="WebSocket connection closed unexpectedly")
    assert followed(jobs) == ("SUCCEEDED", "one\ntwo\nthree\n")


def test_lines_written_after_the_stream_closed_are_not_lost() -> None:
    assert followed(FakeJobs(LINES, streams=[1])) == ("SUCCEEDED", "one\ntwo\nthree\n")


@pytest.mark.parametrize("final", ["FAILED", "STOPPED"])
def test_a_job_that_did_not_succeed_is_not_reported_as_done(final: str) -> None:
    status, _ = followed(FakeJobs(LINES, streams=[3], final=final))
    assert status == final
    assert exit_code(status) == 1


def test_only_success_is_exit_code_0() -> None:
    statuses = ["SUCCEEDED", "FAILED", "STOPPED", "RUNNING", "PENDING", ""]
    assert [exit_code(status) for status in statuses] == [0, 1, 1, 1, 1, 1]


def test_a_head_that_stays_silent_is_given_up_and_the_job_named() -> None:
    class SilentJobs(FakeJobs):
        def get_job_status(self, job_id: str) -> str:
            raise ConnectionRefusedError

    with pytest.raises(Unavailable, match="ray job status job"):
        followed(SilentJobs([], streams=[0, 0], fault="connection refused"), silence_limit_s=0.0)


def test_the_cursor_cuts_inside_a_chunk_that_was_half_taken() -> None:
    cursor = LogCursor()
    assert cursor.take("abc") == "abc"
    cursor.restart()
    assert cursor.take("abcde") == "de"
    cursor.restart()
    assert cursor.take("ab") == ""
    assert cursor.take("cdefg") == "fg"


def test_a_refused_token_is_told_before_anything_is_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(httpx, "get", lambda *_, **__: httpx.Response(401))
    with pytest.raises(TokenRefused, match="refuses the token"):
        follow("job", "http://10.0.0.1:8265")
