"""The versions that images are built with: what pip chooses today for this project and for what images add to it.

    .venv/bin/python -m cluster.constraints        # writes constraints.txt

Without what vLLM alone requires: its builds for CPUs and CUDA differ there, and state most of it exactly.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from cluster.install import PROJECT, TORCH, pyproject

FILE = PROJECT / "constraints.txt"
EXTRAS = ("services", "tracing", "qlora")
HEAD = "# What images are built with; renewed by `make lock`, never by hand.\n"


def main() -> int:
    project = pyproject()["project"]
    pip = (sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet")
    done = subprocess.run([*pip, "--report", "-", *requirements(project)], stdout=subprocess.PIPE, text=True)
    if done.returncode == 0:
        FILE.write_text(HEAD + "".join(f"{line}\n" for line in versions(json.loads(done.stdout))))
    return done.returncode


def requirements(project: dict[str, Any]) -> list[str]:
    """What pip is asked for, from the project's table."""
    extras = project["optional-dependencies"]
    return [TORCH, *project["dependencies"], *(line for name in EXTRAS for line in extras[name])]


def versions(report: dict[str, Any]) -> list[str]:
    """The packages of pip's report, as constraints; without a local part, so that each build of torch's will do."""
    chosen = [package["metadata"] for package in report["install"]]
    return sorted(f"{one['name'].lower()}=={one['version'].partition('+')[0]}" for one in chosen)


if __name__ == "__main__":
    sys.exit(main())
