"""One gradient, however a global batch is cut: over workers, micro-batches and ZeRO stages."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from ranks import OTHER_WORKERS, REFERENCE, VARIANTS, assert_same_steps, assert_same_weights, load, run_ranks

from training.config import FinetuneConfig, Precision, TaskName
from training.modules import reload_module

TASKS = (TaskName.CLASSIFICATION, TaskName.SFT, TaskName.DPO)
OTHERS = [f"{cut}-{stage}" for cut in ("8x1x1", "2x4x1", "2x2x2") for stage in (0, 2, 3)][1:]
OTHERS += [f"2x2x2-{variant}" for variant in VARIANTS]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory, write_bases: Callable[[Path], Path]) -> Path:
    """The folder in which one process and a group of two left what they measured."""
    folder = write_bases(tmp_path_factory.mktemp("equality"))
    # Two ranks on the processor; for GPUs see test_gpu.py.
    run_ranks(folder, 1, 2, OMP_NUM_THREADS="1", CUDA_VISIBLE_DEVICES="", GLOO_SOCKET_IFNAME="lo")
    return folder


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("name", OTHERS)
def test_loss_and_gradient_do_not_depend_on_the_cut_or_the_stage(
    results: Path, task: TaskName, name: str
) -> None:
    assert_same_steps(results, task, name)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("name", OTHERS)
def test_every_weight_is_gathered_whole_and_ends_the_same(results: Path, task: TaskName, name: str) -> None:
    assert_same_weights(results, task, name)


@pytest.mark.parametrize("name", [REFERENCE, *OTHERS])
def test_the_first_loss_of_two_balanced_classes_is_near_ln_2(results: Path, name: str) -> None:
    (loss, _), *_ = load(results / f"classification-{name}.pt")["steps"]
    assert loss == pytest.approx(math.log(2), abs=0.05)


@pytest.mark.parametrize("name", [REFERENCE, *OTHERS])
def test_the_first_loss_of_preferences_is_ln_2_whatever_the_rows(results: Path, name: str) -> None:
    (loss, _), *_, (last, _) = load(results / f"dpo-{name}.pt")["steps"]
    assert loss == pytest.approx(math.log(2), abs=1e-6)
    assert last != pytest.approx(loss, abs=1e-3)


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
    module, _ = reload_module(
        config, str(results / f"{task}-{kind}"), ("a", "b"), precision=Precision.FLOAT32
    )
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


@pytest.mark.parametrize("saved_by", [1, 2])
@pytest.mark.parametrize("name", OTHER_WORKERS)
def test_another_number_of_workers_goes_on_as_the_first_would_have(
    results: Path, name: str, saved_by: int
) -> None:
    one, other = (load(results / f"{saved_by}-{name}.{kind}.pt") for kind in ("undisturbed", "resumed"))
    assert other["steps"] == [pytest.approx(step, rel=1e-5) for step in one["steps"]]
    for key, weight in one["state"].items():
        torch.testing.assert_close(other["state"][key], weight, rtol=1e-4, atol=1e-5)
