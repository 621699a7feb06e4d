"""What serving asks of training, by its command line: is this file good, and what would this run take?

`python -m training validate` and `plan` run as processes of their own: serving does not import training, and
a file that brings the checker down brings nothing else down.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from cluster.errors import DataError, HamletError, InvalidInput, Unavailable
from cluster.last_words import last_line
from serving.job_policy import was_killed

SHOWN_FAULTS = 3
# What a training file may hold, as training names it.
TASKS = ("sft", "dpo")
# How a command ends with an error of the tree, be it bad input or a part that is down.
FAILED = 2


@dataclass(frozen=True)
class TrainingCommands:
    """`program` is how training is called, with a limit of time for each call."""

    program: Sequence[str] = field(default_factory=lambda: (sys.executable, "-m", "training"))
    timeout_s: float = 600

    def validate(self, path: Path, filename: str) -> dict[str, Any]:
        """The report on a file of chats or preferences: `task` (sft or dpo), `rows`, `warnings`, `statistics`.

        Raises DataError for rows of another kind; for faulty ones, with the first faults in its message and all
        that are listed in `details["errors"]`; Unavailable as `plan`.
        """
        done = self._run("validate", str(path), "--json")
        if done.returncode not in (0, 1) or not done.stdout:
            raise DataError(f"{filename}: {_last_words(done).replace(str(path), filename)}", "file")
        report: dict[str, Any] = json.loads(done.stdout)
        task = report.get("task")
        if task is not None and task not in TASKS:
            raise DataError(
                f"{filename} holds rows for {task}; write chats (messages), or preferences (input, "
                "preferred_output, non_preferred_output)",
                "file",
            )
        if faults := report.get("errors"):
            details = {"errors": faults, "num_errors": report.get("num_errors", len(faults))}
            sentence = faults_in_a_sentence(filename, faults, details["num_errors"])
            raise DataError(sentence, "file", details=details)
        return {name: report.get(name) for name in ("task", "rows", "warnings", "statistics")}

    def plan(
        self, config: Mapping[str, Any], price_per_hour: float | None = None, probe: bool = True
    ) -> dict[str, Any]:
        """What a run would take: tokens, memory, cost and, by a `probe` of a few steps, time.

        Raises InvalidInput for a run that cannot work; Unavailable when nothing was found out about it, since the
        process took too long, was killed or did not reach a store or hub; HamletError for a fault of ours.
        """
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "plan.yaml"
            path.write_text(yaml.safe_dump(dict(config)))
            price = ["--price-per-hour", f"{price_per_hour:g}"] if price_per_hour is not None else []
            probing = [] if probe else ["--no-probe"]
            done = self._run("plan", str(path), "--json", *price, *probing)
            if done.returncode == FAILED:
                raise InvalidInput(
                    _last_words(done).replace(f"{path}: ", ""), "training_file", "invalid_training_file"
                )
            if done.returncode:
                raise HamletError(f"the plan could not be made: {_last_words(done)}")
        plan: dict[str, Any] = json.loads(done.stdout)
        return plan

    def _run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        try:
            done = subprocess.run(
                [*self.program, *arguments], capture_output=True, text=True, timeout=self.timeout_s
            )
        except subprocess.TimeoutExpired as exc:
            raise Unavailable(
                f"training {arguments[0]} took longer than {self.timeout_s:g} s; send a smaller file"
            ) from exc
        except OSError as exc:
            raise Unavailable(
                f"training {arguments[0]} cannot be started ({exc.strerror}); try again later"
            ) from exc
        if was_killed(done.returncode):  # mostly for want of memory, which says nothing of the file
            raise Unavailable(f"training {arguments[0]} was killed; try again later")
        error = _told_error(done)
        if error.get("type") == Unavailable.type:
            raise Unavailable(error["message"], code=error["code"])
        return done


def faults_in_a_sentence(filename: str, faults: Sequence[Mapping[str, Any]], num_faults: int) -> str:
    """The first faults with their places, and how many there are.

    >>> faults_in_a_sentence("a.jsonl", [{"line": 7, "column": 42, "reason": "a quote is not escaped"}], 1)
    'a.jsonl has 1 fault: line 7, column 42: a quote is not escaped'
    """
    shown = "; ".join(_fault(fault) for fault in faults[:SHOWN_FAULTS])
    more = f"; and {num_faults - SHOWN_FAULTS} more" if num_faults > SHOWN_FAULTS else ""
    return f"{filename} has {num_faults} fault{'s'[: num_faults != 1]}: {shown}{more}"


def _fault(fault: Mapping[str, Any]) -> str:
    places = {"line": "line", "column": "column", "message_index": "message"}
    where = ", ".join(f"{word} {fault[key]}" for key, word in places.items() if fault.get(key) is not None)
    remedy = f" ({fault['remedy']})" if fault.get("remedy") else ""
    return f"{where}: {fault['reason']}{remedy}" if where else f"{fault['reason']}{remedy}"


def _told_error(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """The error object that a command with --json ends with; empty where there is none."""
    try:
        error: dict[str, Any] = json.loads(done.stdout)["error"] if done.returncode == FAILED else {}
    except (ValueError, KeyError):
        return {}
    return error


def _last_words(done: subprocess.CompletedProcess[str]) -> str:
    return last_line(done.stderr, f"it ended with {done.returncode}").removeprefix("error: ")
