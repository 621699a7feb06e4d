"""What only a GPU shows: the same gradient by NCCL and CUDA kernels, 4-bit bases, a whole run on it.

Skipped where there is none. `pip install -e ".[test,qlora]"`, then `pytest tests/integration/training/test_gpu.py`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from cluster.ports import free_port
from cluster.registry import Registry
from cluster.settings import settings

REPOSITORY = Path(__file__).parents[3]
DEADLINE_S = 200.0
REFERENCE = "8x1x1-0"
CASES = [
    *("8x1x1-2", "8x1x1-3", "2x4x1-0", "2x4x1-2", "2x4x1-3"),
    *(f"8x1x1-{variant}" for variant in ("2-offload", "3-offload", "0-recompute", "3-recompute")),
]
HANDBOOK = REPOSITORY / "examples" / "handbook" / "train.jsonl"

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")


@pytest.fixture(scope="module")
def results(
    tmp_path_factory: pytest.TempPathFactory,
    write_bert: Callable[[Path], Path],
    write_llama: Callable[[Path], Path],
) -> Path:
    """The folder in which one process on the GPU left what it measured."""
    folder = tmp_path_factory.mktemp("gpu")
    write_bert(folder / "classification")
    write_llama(folder / "sft")
    write_llama(folder / "dpo")
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")])),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port("127.0.0.1")),
        "WORLD_SIZE": "1",
        "RANK": "0",
        "LOCAL_RANK": "0",
        "HAMLET_HOME": str(folder / "home"),
    }
    command = [sys.executable, str(Path(__file__).with_name("rank_worker.py")), str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=DEADLINE_S)
    assert done.returncode == 0, done.stderr[-4000:]
    return folder


@pytest.mark.parametrize("task", ["classification", "sft", "dpo"])
@pytest.mark.parametrize("case", CASES)
def test_loss_gradient_and_weights_do_not_depend_on_the_cut_or_the_stage(
    results: Path, task: str, case: str
) -> None:
    one, other = (torch.load(results / f"{task}-{name}.pt", weights_only=False) for name in (REFERENCE, case))
    assert len(one["steps"]) == len(other["steps"]) == 6
    for (loss, norm), (other_loss, other_norm) in zip(one["steps"], other["steps"], strict=True):
        assert other_loss == pytest.approx(loss, rel=1e-3)
        assert other_norm == pytest.approx(norm, rel=1e-3)
    for key, weight in one["state"].items():
        torch.testing.assert_close(other["state"][key], weight, rtol=1e-2, atol=1e-3)


@pytest.mark.timeout(400)
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
