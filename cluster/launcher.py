"""Starting a command under a name of its own, and telling what became of it, from whichever process asks.

A name is started once: a second start, also by another process and after a crash, finds the first. Two
launchers: `LocalLauncher` here, for one machine without Ray, and `ray_launcher.RayLauncher`.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from cluster.errors import Unavailable
from cluster.last_words import last_line_of
from cluster.local_run import EXIT_CODE, LOG, PID, is_held

START_LIMIT_S = 20.0
# A process that was asked to end has so long to save a checkpoint, and is killed then.
STOP_LIMIT_S = 60.0


class RunState(StrEnum):
    ABSENT = "absent"  # never started, or forgotten with the cluster that ran it
    RUNNING = "running"
    ENDED = "ended"


@dataclass(frozen=True)
class Run:
    """What became of a command. `exit_code` is None where it was killed or its machine was lost."""

    state: RunState
    exit_code: int | None = None
    last_words: str = ""


class Launcher(Protocol):
    def start(self, name: str, command: Sequence[str]) -> None:
        """Start the command unless this name was started before. Raises Unavailable."""

    def look(self, name: str) -> Run:
        """What became of it. Raises Unavailable when that cannot be told now."""

    def stop(self, name: str) -> None:
        """Ask it to end; called again until it has."""


class LocalLauncher:
    """Commands as processes of this machine that outlive the one which started them.

    Each has a folder with its log and, at its end, its exit code; while it runs it holds a lock there, which the
    kernel lets go whatever it dies of.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._children: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, command: Sequence[str]) -> None:
        if self.look(name).state is not RunState.ABSENT:
            return
        folder = self._folder / name
        runner = [sys.executable, "-m", "cluster.local_run", str(folder), *command]
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._children[name] = subprocess.Popen(runner, start_new_session=True, stdin=subprocess.DEVNULL)
        except OSError as exc:
            raise Unavailable(f"{name} cannot be started ({exc.strerror}); see {folder}") from exc
        deadline = time.monotonic() + START_LIMIT_S
        while self.look(name).state is RunState.ABSENT:
            if time.monotonic() > deadline:
                raise Unavailable(f"{name} has not started within {START_LIMIT_S:g} s; see {folder / LOG}")
            time.sleep(0.02)

    def look(self, name: str) -> Run:
        self._reap(name)
        folder = self._folder / name
        # In this order: a process that ends between the two looks is seen as ended.
        if is_held(folder):
            return Run(RunState.RUNNING)
        with suppress(FileNotFoundError):
            return Run(RunState.ENDED, int((folder / EXIT_CODE).read_text()), last_line_of(folder / LOG, ""))
        if (folder / PID).exists():
            return Run(RunState.ENDED, None, last_line_of(folder / LOG, ""))
        return Run(RunState.ABSENT)

    def stop(self, name: str) -> None:
        folder = self._folder / name
        if not is_held(folder):
            return
        asked = folder / "stop_asked"
        is_late = asked.exists() and time.time() - asked.stat().st_mtime > STOP_LIMIT_S
        if not asked.exists():
            asked.touch()
        with suppress(FileNotFoundError, ProcessLookupError):
            os.killpg(int((folder / PID).read_text()), signal.SIGKILL if is_late else signal.SIGTERM)

    def _reap(self, name: str) -> None:
        child = self._children.get(name)
        if child is not None and child.poll() is not None:
            del self._children[name]
