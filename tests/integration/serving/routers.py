"""Router processes over one home, their training scripted, which tests kill and start again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import openai

from cluster.ports import free_port

HERE = Path(__file__).parent
REPOSITORY = HERE.parents[2]
ROWS = "\n".join(
    json.dumps({"messages": [{"role": "user", "content": f"q{n}"}, {"role": "assistant", "content": "a"}]})
    for n in range(30)
).encode()


class Router:
    """A router process on a port of its own. `arguments` are router_process.py's after the port."""

    def __init__(self, home: Path, *arguments: str, **variables: str) -> None:
        self.port = free_port("127.0.0.1")
        self._arguments = arguments
        self._environment = {
            **os.environ,
            "HAMLET_HOME": str(home),
            "PYTHONPATH": str(REPOSITORY),
            **variables,
        }
        self._log = home / f"router-{self.port}.log"
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def client(self) -> openai.OpenAI:
        return openai.OpenAI(
            base_url=f"http://127.0.0.1:{self.port}/v1", api_key="none", max_retries=0, timeout=60
        )

    def start(self) -> Router:
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, str(HERE / "router_process.py"), str(self.port), *self._arguments],
                env=self._environment,
                cwd=REPOSITORY,
                stdout=log,
                stderr=log,
            )
        until(self._answers, 60)
        return self

    def kill(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
            self.process = None

    def _answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self._log.read_text()[-2000:]
        try:
            return httpx.get(f"http://127.0.0.1:{self.port}/healthz", timeout=2).is_success
        except httpx.HTTPError:
            return False


def until(check: Callable[[], Any], seconds: float = 60) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := check()):
        assert time.monotonic() < deadline, "it has not happened in time"
        time.sleep(0.1)
    return found


def ended(client: openai.OpenAI, job_id: str, seconds: float = 150) -> Any:
    """The job, once it has ended."""

    def look() -> Any:
        job = client.fine_tuning.jobs.retrieve(job_id)
        return job if job.status in ("succeeded", "failed", "cancelled") else None

    return until(look, seconds)
