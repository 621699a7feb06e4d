"""Submitting a Ray job: its entrypoint's words, the check of what is uploaded, and the `ray job submit`."""

from __future__ import annotations

import json
import os
import secrets
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from cluster import dashboard
from cluster.connection import client_environment, dashboard_url
from cluster.errors import ConfigError, InvalidInput, Unavailable
from cluster.last_words import last_line
from cluster.working_dir import check_working_dir, excludes_for

_SHELL_OPERATORS = frozenset({"|", "||", "&", "&&", ";", "<", "<<", ">", ">>", ">&", "&>", "<("})


@dataclass(frozen=True)
class SubmitCommand:
    """A `ray job submit`: `options` and `entrypoint` with `environment` on top of the caller's."""

    options: tuple[str, ...]
    entrypoint: tuple[str, ...]
    environment: dict[str, str]

    def argv(self, *more_options: str) -> list[str]:
        return ["ray", "job", "submit", *self.options, *more_options, "--", *self.entrypoint]

    def __str__(self) -> str:
        """The command as a shell takes it, ready to be copied."""
        variables = [f"{name}={shlex.quote(value)}" for name, value in self.environment.items()]
        return " ".join([*variables, shlex.join(self.argv())])


def submit_command(
    entrypoint: str | Sequence[str],
    working_dir: Path = Path(),
    *,
    address: str | None = None,
    num_cpus: float | None = None,
) -> SubmitCommand:
    """The `ray job submit` that runs `entrypoint` in a copy of `working_dir`, whose size is checked here.

    `address` is the dashboard's URL, by default of the head that runs here. `num_cpus` are reserved for
    the entrypoint itself, apart from its workers. Raises DataError for a folder too large to upload,
    InvalidInput for an empty or ambiguous entrypoint, ConfigError for a cluster with another Ray, Unavailable when
    no head runs.
    """
    words = split_entrypoint(entrypoint)
    check_working_dir(working_dir)
    url = address or dashboard_url()
    _require_same_ray(url)
    options = ["--address", url, "--working-dir", str(working_dir)]
    if excludes := excludes_for(working_dir):
        options += ["--runtime-env-json", json.dumps({"excludes": excludes})]
    if num_cpus is not None:
        options += ["--entrypoint-num-cpus", f"{num_cpus:g}"]
    return SubmitCommand(tuple(options), tuple(words), client_environment(for_http=True))


def submit(command: SubmitCommand, submission_id: str | None = None) -> str:
    """Run the real `ray job submit` without waiting for the job; returns the job's id, to `follow` it.

    Raises Unavailable with Ray's last words when it is refused.
    """
    job_id = submission_id or f"hamlet-{secrets.token_hex(6)}"
    # The `ray` of this environment, activated or not.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    result = subprocess.run(
        command.argv("--no-wait", "--submission-id", job_id),
        env={**os.environ, **command.environment, "PATH": path},
        capture_output=True,
        text=True,
    )
    if result.returncode:
        reason = last_line(result.stderr, "it said nothing")
        raise Unavailable(f"ray job submit failed: {reason}; is the head up? python -m cluster status")
    return job_id


def _require_same_ray(url: str) -> None:
    """Refuse a cluster with another Ray than ours; one that does not answer is left to `ray job submit` to name."""
    try:
        theirs = dashboard.ray_version(url.rstrip("/"))
    except dashboard.TokenRefused:
        raise
    except Unavailable:
        return
    if theirs != (ours := version("ray")):
        raise ConfigError(
            f"the cluster at {url} has Ray {theirs}, this environment has Ray {ours}; install the cluster's here, "
            "or submit to a cluster that has ours",
            "address",
        )


def split_entrypoint(entrypoint: str | Sequence[str]) -> list[str]:
    """The entrypoint as separate words; a single quoted string is split by the shell's rules.

    Ray quotes every word, so that `"python train.py --name 'my run'"` in one word would be looked for as one
    program of that name. What needs a shell is refused with a hint, because no shell would see it.

    >>> split_entrypoint(["python train.py --name 'my run'"])
    ['python', 'train.py', '--name', 'my run']
    """
    words = [entrypoint] if isinstance(entrypoint, str) else list(entrypoint)
    if len(words) == 1:
        words = _split(words[0])
    if not words:
        raise InvalidInput("the entrypoint is empty; give a command such as: python train.py", "entrypoint")
    return words


def _split(text: str) -> list[str]:
    try:
        operators = set(shlex.shlex(text, posix=False, punctuation_chars=True)) & _SHELL_OPERATORS
        words = shlex.split(text)
    except ValueError as exc:
        raise InvalidInput(
            f"the entrypoint {text!r} cannot be split into words: {exc}", "entrypoint"
        ) from exc
    if operators:
        raise InvalidInput(
            f"the entrypoint {text!r} needs a shell for {' '.join(sorted(operators))}; "
            f"give the three words: sh -c {shlex.quote(text)}",
            "entrypoint",
        )
    return words
