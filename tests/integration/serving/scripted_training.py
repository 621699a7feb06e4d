"""A stand-in for `python -m training` that takes no time: the same commands and marks in the job's record.

The suffix of a job says how its run goes: `fails`, `killed-once`, `slow`; any other succeeds. Two runs of one
job at a time are noted in HAMLET_HOME/doubles.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import yaml

from cluster.cards import ModelCard, ModelKind, Parity
from cluster.fine_tuning_jobs import FineTuningJobs
from cluster.settings import settings

NUM_STEPS = 3


def validate(path: str) -> int:
    errors, rows = [], Path(path).read_text().splitlines()
    for number, row in enumerate(rows, 1):
        try:
            json.loads(row)
        except json.JSONDecodeError as exc:
            fault = {
                "line": number,
                "column": exc.colno,
                "message_index": None,
                "reason": exc.msg,
                "remedy": "",
            }
            errors.append(fault)
    report = {
        "file": path,
        "task": "sft",
        "rows": len(rows),
        "num_errors": len(errors),
        "errors": errors,
        "warnings": [],
        "statistics": {},
    }
    sys.stdout.write(json.dumps(report))
    return 1 if errors else 0


def plan(path: str) -> int:
    config = yaml.safe_load(Path(path).read_text())
    if config["output"]["suffix"] == "too-large":
        sys.stderr.write("error: the model needs 80 GiB, a worker has 1; use a smaller one\n")
        return 2
    sys.stdout.write(json.dumps({"steps": NUM_STEPS, "train_seconds": 3.0}))
    return 0


def run(config_path: str, job_id: str) -> int:
    home = settings().home_dir
    folder = home / "runs" / job_id
    folder.mkdir(parents=True, exist_ok=True)
    lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        with (home / "doubles").open("a") as file:
            file.write(f"{job_id}\n")
    config = yaml.safe_load(Path(config_path).read_text())
    train(config, folder, job_id)
    return 0


def train(config: dict[str, Any], folder: Path, job_id: str) -> None:
    jobs = FineTuningJobs()
    suffix = config["output"]["suffix"]
    checkpoint = folder / "step"
    first = int(checkpoint.read_text()) if checkpoint.exists() else 0
    for step in range(first + 1, NUM_STEPS + 1):
        data = {"step": step, "total_steps": NUM_STEPS, "train_loss": 1.0 / step, "valid_loss": 1.5 / step}
        jobs.post_event(
            job_id, f"Step {step}/{NUM_STEPS}: training loss={1 / step:.2f}", type="metrics", data=data
        )
        partial = folder / "partial"
        partial.write_text(str(step))
        partial.replace(checkpoint)
        if suffix == "fails" and step == 2:
            jobs.fail(job_id, "the loss is not a number at step 2; lower the learning rate", "diverged")
            sys.exit(1)
        if suffix == "killed-once" and step == 2 and first == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(600 if suffix == "slow" else 0.05)
    model = f"ft:smollm2:hamlet:{suffix}:{job_id[-8:]}"
    jobs.add_checkpoint(
        job_id, 2, f"{model}:ckpt-step-2", {"train_loss": 0.5}, card(f"{model}:ckpt-step-2", folder)
    )
    jobs.succeed(job_id, card(model, folder), trained_tokens=NUM_STEPS * 10)


def card(model: str, folder: Path) -> ModelCard:
    return ModelCard(
        id=model,
        kind=ModelKind.GENERATOR,
        base_model="builtin:smollm2",
        weights_uri=str(folder / "weights"),
        is_adapter=True,
        lora_rank=8,
        max_length_tokens=512,
        config_sha256="0",
        data_sha256="0",
        code_version="0",
        parity=Parity(passed=True, max_metric_difference=0.0),
    )


if __name__ == "__main__":
    command, *arguments = sys.argv[1:]
    if command == "validate":
        sys.exit(validate(arguments[0]))
    sys.exit(plan(arguments[0]) if command == "plan" else run(arguments[0], arguments[2]))
