"""One gradient, however a global batch is cut: over workers, micro-batches and ZeRO stages."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from cluster.ports import free_port
from training.config import FinetuneConfig, TaskName
from training.modules import reload_module

REPOSITORY = Path(__file__).parents[3]
VARIANTS = ("2-offload", "3-offload", "0-recompute", "3-recompute")
DEADLINE_S = 250.0
TASKS = (TaskName.CLASSIFICATION, TaskName.SFT, TaskName.DPO)
REFERENCE = "8x1x1-0"
OTHERS = [f"{cut}-{stage}" for cut in ("8x1x1", "2x4x1", "2x2x2") for stage in (0, 2, 3)][1:]
OTHERS += [f"{cut}-{variant}" for cut in ("8x1x1", "2x2x2") for variant in VARIANTS]


@pytest.fixture(scope="module")
def results(
    tmp_path_factory: pytest.TempPathFactory,
    write_bert: Callable[[Path], Path],
    write_llama: Callable[[Path], Path],
) -> Path:
    """The folder in which one process and a group of two left what they measured."""
    folder = tmp_path_factory.mktemp("equality")
    write_bert(folder / "classification")
    write_llama(folder / "sft")
    write_llama(folder / "dpo")
    ranks = []
    for world_size in (1, 2):
        port = str(free_port("127.0.0.1"))
        for rank in range(world_size):
            environment = {
                **os.environ,
                "PYTHONPATH": str(REPOSITORY),
                "OMP_NUM_THREADS": "1",
                "CUDA_VISIBLE_DEVICES": "",  # two ranks on the processor; for GPUs see test_gpu.py
                "GLOO_SOCKET_IFNAME": "lo",
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": port,
                "WORLD_SIZE": str(world_size),
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "HAMLET_HOME": str(folder / "home"),
            }
            log = (folder / f"rank-{rank}-of-{world_size}.log").open("w")
            command = [sys.executable, str(Path(__file__).with_name("rank_worker.py")), str(folder)]
            ranks.append((subprocess.Popen(command, env=environment, stdout=log, stderr=log), log))
    try:
        for process, log in ranks:
            status = process.wait(DEADLINE_S)
            assert status == 0, Path(log.name).read_text()[-4000:]
    finally:
        for process, log in ranks:
            process.kill()
            process.wait()
            log.close()
    return folder


def load(path: Path) -> Any:
    return torch.load(path, weights_only=False)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("name", OTHERS)
def test_loss_and_gradient_do_not_depend_on_the_cut_or_the_stage(
    results: Path, task: TaskName, name: str
) -> None:
    one, other = (load(results / f"{task}-{which}.pt")["steps"] for which in (REFERENCE, name))
    assert len(one) == len(other) == 6
    for (loss, norm), (other_loss, other_norm) in zip(one, other, strict=True):
        assert other_loss == pytest.approx(loss, rel=1e-3)
        assert other_norm == pytest.approx(norm, rel=1e-3)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("name", OTHERS)
def test_every_weight_is_gathered_whole_and_ends_the_same(results: Path, task: TaskName, name: str) -> None:
    one, other = (load(results / f"{task}-{which}.pt")["state"] for which in (REFERENCE, name))
    assert one.keys() == other.keys()
    for key, weight in one.items():
        torch.testing.assert_close(
            other[key], weight, rtol=1e-2, atol=1e-3, msg=lambda text, key=key: f"{key}: {text}"
        )


@pytest.mark.parametrize("name", [REFERENCE, *OTHERS])
def test_the_first_loss_of_two_balanced_classes_is_near_ln_2(results: Path, name: str) -> None:
    (loss, _), *_ = load(results / f"classification-{name}.pt")["steps"]
    assert loss == pytest.approx(math.log(2), abs=0.05)


@pytest.mark.parametrize("name", [REFERENCE, *OTHERS])
def test_the_first_loss_of_preferences_is_ln_2_whatever_the_rows(results: Path, name: str) -> None:
    (loss, _), *_, (last, _) = load(results / f"dpo-{name}.pt")["steps"]
    assert loss == pytest.approx(math.log(2), abs=1e-6)
    assert last != pytest.approx(loss, abs=1e-2)


@pytest.mark.parametrize(
    ("task", "kind"),
    [
        *((task, f"2x2x2-{stage}") for task in TASKS for stage in (0, 2, 3)),
        *((task, f"lora-{stage}") for task in (TaskName.CLASSIFICATION, TaskName.SFT) for stage in (0, 3)),
    ],
)
def test_an_export_does_what_the_engine_did(results: Path, task: TaskName, kind: str) -> None:
    found = load(results / f"{task}-{kind}.measured.pt")
    config = FinetuneConfig.model_validate_json(found["config"])
    module, _ = reload_module(config, str(results / f"{task}-{kind}"), ("a", "b"), use_bf16=False)
    with torch.no_grad():
        loss_sum, predictions = module(found["batch"])
    loss, engine_predictions = found["measured"]
    assert float(loss_sum) == pytest.approx(loss, rel=1e-4)
    assert predictions.tolist() == engine_predictions


@pytest.mark.parametrize("case", ["classification-0", "classification-2", "classification-3", "dpo-2"])
def test_a_resumed_engine_goes_on_bit_for_bit(results: Path, case: str) -> None:
    found = load(results / f"resume-{case}.pt")
    (steps, state), (resumed_steps, resumed_state) = found["undisturbed"], found["resumed"]
    assert found["progress"] == {"epoch": 1}
    assert resumed_steps == steps
    assert resumed_state.keys() == state.keys()
    assert all(torch.equal(resumed_state[key], weight) for key, weight in state.items())


def test_another_number_of_workers_is_refused_with_both_numbers(results: Path) -> None:
    message = load(results / "conflict.pt")
    assert "saved with 4 workers, this run has 2" in message
    assert "scaling.num_workers=4" in message
