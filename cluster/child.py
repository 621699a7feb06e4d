"""Work that is done in a process of its own: its memory goes with it, and its libraries' output is kept apart."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from cluster.last_words import last_line


def run_module(module: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """`python -m module arguments…` with this checkout's packages, wherever it is called from; waits for its end."""
    paths = [str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    return subprocess.run(
        [sys.executable, "-m", module, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
    )


def reason_of(failed: subprocess.CompletedProcess[str]) -> str:
    """Why a module failed: the last line that it said, which of our commands is the whole error.

    Log lines before it are left out.
    """
    return last_line(failed.stderr, f"exit code {failed.returncode}").removeprefix("error: ")
