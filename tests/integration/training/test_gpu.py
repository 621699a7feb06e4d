"""What only a GPU shows: the same gradient by NCCL and CUDA kernels, 4-bit bases, a whole run on it.

Skipped where there is none. `pip install -e ".[test,qlora]"`, then `pytest tests/integration/training/test_gpu.py`.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from ranks import REPOSITORY, VARIANTS, assert_same_steps, assert_same_weights, run_ranks

from cluster.registry import Registry
from cluster.settings import settings

DEADLINE_S = 400.0
CASES = [
    *("8x1x1-2", "8x1x1-3", "2x4x1-0", "2x4x1-2", "2x4x1-3"),
    *(f"8x1x1-{variant}" for variant in VARIANTS),
]
HANDBOOK = REPOSITORY / "examples" / "handbook" / "train.jsonl"

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory, write_bases: Callable[[Path], Path]) -> Path:
    """The folder in which one process on the GPU left what it measured."""
    folder = write_bases(tmp_path_factory.mktemp("gpu"))
    run_ranks(folder, 1)
    return folder


@pytest.mark.parametrize("task", ["classification", "sft", "dpo"])
@pytest.mark.parametrize("case", CASES)
def test_loss_gradient_and_weights_do_not_depend_on_the_cut_or_the_stage(
    results: Path, task: str, case: str
) -> None:
    assert_same_steps(results, task, case)
    assert_same_weights(results, task, case)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("qlora", {"method": "qlora", "scaling": {"zero_stage": 2}}),
        ("lora", {"method": "lora", "packing": True, "scaling": {"zero_stage": 3}}),
        ("full", {"method": "full", "scaling": {"zero_stage": 3, "offload": "all"}, "learning_rate": 5e-5}),
    ],
)
def test_a_run_on_the_gpu_learns_is_proven_there_and_registered(
    tmp_path: Path, head: None, name: str, changes: dict[str, Any]
) -> None:
    config = {
        "name": f"gpu-{name}",
        "task": "sft",
        "model": "builtin:smollm2",
        "data": {"path": str(HANDBOOK), "limit": 64},
        "epochs": 3,
        "learning_rate": 5e-4,
        "precision": "bf16",
        "output": {"suffix": name, "alias": f"gpu-{name}"},
        **changes,
    }
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump(config))
    run = f"gpu-{name}"
    command = [sys.executable, "-m", "training", "run", str(file), "--run", run]
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S)
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]

    card = Registry().get(f"gpu-{name}")
    assert card.parity.passed
    metrics = settings().home_dir / "runs" / run / "metrics.jsonl"
    events = [json.loads(line) for line in metrics.read_text().splitlines()]
    first, *_, last = (event for event in events if event["kind"] == "epoch")
    assert last["validation_loss"] < first["validation_loss"]
    measured = json.loads(metrics.with_name("measured.json").read_text())
    assert measured["used_gpu"]
