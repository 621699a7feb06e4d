"""What the equality tests on processors and on a GPU share: the cases, the ranks, the comparison."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from training.config import Method, TaskName

REPOSITORY = Path(__file__).parents[3]
WORKER = Path(__file__).with_name("rank_worker.py")
DEADLINE_S = 500.0
REFERENCE = "8x1x1-0"
# Settings beside the stage that must not change a step, as `rank_worker.py` knows them.
VARIANTS: dict[str, tuple[int, dict[str, Any]]] = {
    "2-offload": (2, {"offload": "optimizer"}),
    "3-offload": (3, {"offload": "all"}),
    "0-recompute": (0, {"gradient_checkpointing": True}),
    "3-recompute": (3, {"gradient_checkpointing": True}),
}
# What is saved by one number of workers and gone on from by another: task, method, stage and offload.
OTHER_WORKERS: dict[str, tuple[TaskName, Method, int, str]] = {
    "full-0": (TaskName.CLASSIFICATION, Method.FULL, 0, "none"),
    "full-1": (TaskName.CLASSIFICATION, Method.FULL, 1, "none"),
    "full-2": (TaskName.CLASSIFICATION, Method.FULL, 2, "none"),
    "full-3": (TaskName.CLASSIFICATION, Method.FULL, 3, "none"),
    "full-2-offload": (TaskName.CLASSIFICATION, Method.FULL, 2, "optimizer"),
    "full-3-offload": (TaskName.CLASSIFICATION, Method.FULL, 3, "all"),
    "lora-2": (TaskName.SFT, Method.LORA, 2, "none"),
    "lora-3": (TaskName.SFT, Method.LORA, 3, "none"),
}


def run_ranks(folder: Path, *world_sizes: int, **environment: str) -> None:
    """A group of ranks for each world size, which leave what they measured in `folder`."""
    inherited = os.environ | environment
    path = os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")]))
    command = [sys.executable, str(WORKER), str(folder), *map(str, world_sizes)]
    done = subprocess.run(
        command,
        env=inherited | {"PYTHONPATH": path, "HAMLET_HOME": str(folder / "home")},
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
    )
    assert done.returncode == 0, done.stderr[-4000:]


def load(path: Path) -> Any:
    return torch.load(path, weights_only=False)


def assert_same_steps(folder: Path, task: str, name: str) -> None:
    one, other = (load(folder / f"{task}-{which}.pt")["steps"] for which in (REFERENCE, name))
    assert len(one) == len(other) == 4
    for (loss, norm), (other_loss, other_norm) in zip(one, other, strict=True):
        assert other_loss == pytest.approx(loss, rel=1e-3)
        assert other_norm == pytest.approx(norm, rel=1e-3)


def assert_same_weights(folder: Path, task: str, name: str) -> None:
    one, other = (load(folder / f"{task}-{which}.pt")["state"] for which in (REFERENCE, name))
    assert one.keys() == other.keys()
    for key, weight in one.items():
        torch.testing.assert_close(
            other[key], weight, rtol=1e-2, atol=1e-3, msg=lambda text, key=key: f"{key}: {text}"
        )
