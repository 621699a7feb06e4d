"""The folder of a run on the machine that drives it: `$HAMLET_HOME/runs/<run>`.

Holds what a person looks at: the resolved config, the environment, metrics, plots, a README. What a run is
resumed from lies in storage instead, since this folder is gone when its machine is.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import orjson
import yaml
from filelock import FileLock, Timeout

from cluster.errors import Conflict, Unavailable
from cluster.settings import settings
from cluster.versions import installed_version
from training.config import FinetuneConfig
from training.progress import Event

PACKAGES = ("hamlet", "torch", "transformers", "deepspeed", "peft", "ray", "numpy", "tokenizers")


class RunFolder:
    """One run's folder, held by one process at a time."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.path = settings().home_dir / "runs" / name
        self._metrics = self.path / "metrics.jsonl"
        self._lock = FileLock(self.path / ".lock")

    def exists(self) -> bool:
        """Whether a run of this name was begun on this machine."""
        return (self.path / "config.yaml").exists()

    def open(self, config: FinetuneConfig) -> None:
        """Take the folder and write what is known before training. Raises Conflict while the run still runs."""
        self.path.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire(timeout=0)
        except Timeout as exc:
            raise Conflict(f"the run {self.name} is running already; wait for it, or end it first") from exc
        resolved = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
        self.write_text("config.yaml", resolved)
        self.write_json("environment.json", environment())
        self._drop_cut_off_line()

    def close(self) -> None:
        self._lock.release()

    def write_json(self, name: str, value: Any) -> None:
        self.write_text(name, json.dumps(value, indent=2) + "\n")

    def write_text(self, name: str, text: str) -> None:
        with self._writing():
            (self.path / name).write_text(text, encoding="utf-8")

    def write_event(self, event: Event) -> None:
        """Append one event to `metrics.jsonl`. A sink."""
        # Not by json, whose NaN and Infinity, which a run that diverges has, are no JSON; here they are null.
        line = orjson.dumps({"time": time.time(), **asdict(event)}, option=orjson.OPT_APPEND_NEWLINE)
        with self._writing(), self._metrics.open("ab") as file:
            file.write(line)

    def events(self) -> list[dict[str, Any]]:
        """The events written so far, without a last line that was cut off."""
        lines = self._metrics.read_bytes().splitlines(keepends=True) if self._metrics.exists() else []
        return [orjson.loads(line) for line in lines if line.endswith(b"\n")]

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as exc:
            raise Unavailable(
                f"cannot write to {self.path} ({exc.strerror}); free room there, then go on with --resume {self.name}"
            ) from exc

    def _drop_cut_off_line(self) -> None:
        """A run that was killed, or met a full disk, may have left half a line; the next would be written behind it."""
        if self._metrics.exists():
            os.truncate(self._metrics, self._metrics.read_bytes().rfind(b"\n") + 1)


def environment() -> dict[str, Any]:
    """Where a run took place: versions, processor and machine."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": _processor(),
        "num_cores": os.cpu_count(),
        "command": sys.argv,
        "packages": {name: installed_version(name) for name in PACKAGES},
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if "model name" in line), platform.machine())
