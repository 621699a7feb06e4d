"""Work that is done in a process of its own: its memory goes with it, and its libraries' output is kept apart."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def run_module(module: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """`python -m module arguments…` with this checkout's packages, wherever it is called from; waits for its end."""
    paths = [str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    return subprocess.run(
        [sys.executable, "-m", module, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
    )
