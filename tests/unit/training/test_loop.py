"""What the train loop decides, without a cluster or DeepSpeed; whole loops are in tests/integration/training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from cluster.errors import JobFailed
from training import loop
from training.checkpoints import folder_name, mark_complete
from training.config import FinetuneConfig, Precision
from training.examples import Dataset, Example, Examples
from training.feed import Amounts, Feed
from training.language_modules import LanguageModule
from training.loop_state import LoopInputs, LoopResult, Progress
from training.meter import Meter
from training.packing import join
from training.progress import EpochEvent


def config_of(**changes: Any) -> FinetuneConfig:
    values = {"name": "t", "task": "sft", "model": "m", "data": {"path": "rows"}}
    return FinetuneConfig.model_validate(values | changes)


class StubEngine:
    """Its weights are a text in the checkpoint's folder."""

    device = torch.device("cpu")
    weights = "those of the last step"

    def load(self, folder: Path, scratch: Path) -> dict[str, Any]:
        self.weights = (folder / "weights").read_text()
        return asdict(Progress(step=int(folder.name.removeprefix("step-"))))


def worker(config: FinetuneConfig, engine: Any, **parts: Any) -> loop._Worker:
    """One without a process group."""
    made = object.__new__(loop._Worker)
    made._config, made._engine, made._rank, made._world_size = config, engine, 1, 1
    made._precision = Precision.FLOAT32
    for name, part in parts.items():
        setattr(made, f"_{name}", part)
    return made


def losses(*validation: float) -> Progress:
    """A run that has these losses behind it, an epoch of ten steps each."""
    progress = Progress(trained_tokens=99)
    for number, loss in enumerate(validation, 1):
        event = EpochEvent(number, 10 * number, 1.0, loss, {"perplexity": 2 * loss})
        progress = replace(progress.after(event), step=10 * number)
    return progress


@pytest.mark.parametrize(
    ("patience", "progress", "weights"),
    [
        (2, losses(0.5, 0.25, 0.75, 0.5), "those of step 20"),
        (2, losses(0.5, 0.25), "those of the last step"),
        (None, losses(0.5, 0.25, 0.75), "those of the last step"),
    ],
    ids=["the best is an earlier one", "the best is the last one", "without early stopping"],
)
def test_with_early_stopping_the_exported_weights_are_those_of_the_best_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, patience: int | None, progress: Progress, weights: str
) -> None:
    for step in (20, 40):
        folder = tmp_path / "attempt-a" / folder_name(step)
        folder.mkdir(parents=True)
        (folder / "weights").write_text(f"those of step {step}")
        mark_complete(str(folder), step=step, world_size=1, config={}, data_sha256=None)
    engine = StubEngine()
    inputs = LoopInputs(config_of(), None, 0, str(tmp_path), None, None)
    made = worker(config_of(early_stopping_patience=patience), engine, inputs=inputs, progress=progress)
    made.keep_best()
    assert engine.weights == weights
    monkeypatch.setattr(loop, "peak_memory_bytes", lambda _: 1)
    result = made.result()
    kept = progress.best_epoch if patience else progress.last_epoch
    assert kept is not None
    assert (result.validation_loss, result.metrics) == (kept.validation_loss, kept.metrics)
    assert (result.steps, result.trained_tokens) == (progress.step, 99)  # all that was trained


def test_a_loop_goes_back_to_its_best_epoch_before_it_exports_and_ends_without_a_collective(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    called: list[str] = []

    class EndedWorker:
        is_finished = True

        def __init__(self, *_: object) -> None: ...

        def __getattr__(self, name: str) -> Callable[..., LoopResult]:
            return lambda *_: called.append(name) or LoopResult(Precision.FLOAT32, 0.5, {}, 1, 1, 1.0)

    class NoHeartbeat:
        def __init__(self, *_: object) -> None: ...

        def __enter__(self) -> None: ...

        def __exit__(self, *_: object) -> None: ...

    monkeypatch.setattr(loop, "_Worker", EndedWorker)
    monkeypatch.setattr(loop, "Heartbeat", NoHeartbeat)
    monkeypatch.setattr(loop, "keep_freed_memory", lambda: None)
    monkeypatch.setattr(loop.ray.train, "get_context", lambda: SimpleNamespace(get_world_rank=lambda: 0))
    result = loop.train_loop(LoopInputs(config_of(), None, 0, "run", "export", None))
    assert result.validation_loss == 0.5
    # `result` asks all ranks for their memory; whoever uploads the export may take long.
    assert called == ["check_packing", "resume", "keep_best", "result", "export"]


class Forgetful(nn.Module):
    """A model that does not know packed rows: it takes no positions, so that later rows see earlier ones."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = LanguageModule(model)

    def forward(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        plain = {name: value for name, value in batch.items() if name != "position_ids"}
        found: tuple[Tensor, Tensor] = self.model(
            plain | {"attention_mask": torch.ones_like(batch["input_ids"])}
        )
        return found


def check_packing(model: nn.Module, *, packing: bool = True) -> None:
    """The check of a loop whose engine holds that module."""
    rows = [Example([start + n for n in range(12)], [start + n for n in range(12)], []) for start in (10, 90)]
    dataset = Dataset(Examples.of([join(rows), join(rows[:1])]), Examples.of(rows))
    config = config_of(packing=packing)

    def evaluate(batch: dict[str, Tensor]) -> tuple[float, list[int]]:
        with torch.no_grad():
            loss_sum, predictions = model(batch)
        return float(loss_sum), predictions.tolist()

    engine = SimpleNamespace(evaluate=evaluate)
    worker(config, engine, dataset=dataset, feed=Feed(dataset, config, 0)).check_packing()


@pytest.fixture
def model(tiny_llama: Callable[..., Any]) -> nn.Module:
    """One whose loss depends on what came before: at its start it says nearly the same after anything."""
    model: nn.Module = tiny_llama()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(8)
    return model


def test_packing_is_refused_for_a_model_whose_rows_see_each_other(model: nn.Module) -> None:
    with pytest.raises(JobFailed, match=r"its rows see each other .*; use packing=false"):
        check_packing(Forgetful(model))


def test_packing_is_taken_by_a_model_that_keeps_rows_apart_and_asked_of_no_other(model: nn.Module) -> None:
    check_packing(LanguageModule(model))
    check_packing(Forgetful(model), packing=False)


def test_a_run_of_50_steps_has_50_points_in_its_curve(tmp_path: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        assert num_points(total_steps=50) == 50
        assert num_points(total_steps=1000) == 1  # all of them within a second
    finally:
        dist.destroy_process_group()


def num_points(total_steps: int) -> int:
    """Step events of an epoch whose steps take no time."""
    events: list[object] = []
    engine = SimpleNamespace(device=torch.device("cpu"), learning_rate=0.1, grad_norm=1.0)
    parts = {"heartbeat": SimpleNamespace(should_pause=False), "progress": Progress()}
    plan = SimpleNamespace(plan=lambda _epoch: range(total_steps))
    made = worker(
        config_of(), engine, feed=plan, steps_per_epoch=total_steps, total_steps=total_steps, **parts
    )

    def step(_number: int, meter: Meter) -> None:
        meter.add(torch.tensor(1.0), Amounts(1, 0, 0, 1))
        made._progress = replace(made._progress, step=made._progress.step + 1)

    made._run_step = step  # type: ignore[assignment, method-assign]
    made._post = events.append  # type: ignore[method-assign]
    made._end_epoch = lambda _epoch: None  # type: ignore[method-assign]
    made.run_epoch()
    return len(events)
