"""What the equality tests on processors and on a GPU share: the cases, the ranks' environment, the comparison."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

REPOSITORY = Path(__file__).parents[3]
WORKER = Path(__file__).with_name("rank_worker.py")
REFERENCE = "8x1x1-0"
# Settings beside the stage that must not change a step, as `rank_worker.py` knows them.
VARIANTS: dict[str, tuple[int, dict[str, Any]]] = {
    "2-offload": (2, {"offload": "optimizer"}),
    "3-offload": (3, {"offload": "all"}),
    "0-recompute": (0, {"gradient_checkpointing": True}),
    "3-recompute": (3, {"gradient_checkpointing": True}),
}


def rank_environment(folder: Path, rank: int, world_size: int, port: int) -> dict[str, str]:
    """The environment of one rank of `rank_worker.py`, which leaves what it measured in `folder`."""
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")])),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(world_size),
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "HAMLET_HOME": str(folder / "home"),
    }


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
