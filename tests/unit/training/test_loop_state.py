from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
from ray.train import Checkpoint
from ray.train._internal.checkpoint_manager import _CheckpointManager
from ray.train._internal.session import _TrainingResult

from training.config import FinetuneConfig
from training.fit import _checkpoints_kept
from training.loop_state import CHECKPOINT_SCORE, Progress
from training.progress import EpochEvent

NAN = math.nan


def after_epochs(*losses: float) -> Progress:
    progress = Progress()
    for epoch, loss in enumerate(losses, 1):
        progress = replace(progress, step=10 * epoch, epoch_loss_sum=1.0, epoch_targets=1)
        progress = progress.after(EpochEvent(epoch, progress.step, 1.0, loss))
    return progress


@pytest.mark.parametrize(
    ("losses", "best", "without_improvement"),
    [
        ((0.5, 0.4, 0.6), 2, 1),
        ((0.5, 0.4, 0.4, 0.6), 2, 2),
        ((0.5, NAN, NAN), 1, 2),
        ((NAN, 0.5, 0.6), 2, 1),
        ((NAN, math.inf), None, 2),
        ((), None, 0),
    ],
)
def test_the_best_epoch_is_the_first_of_the_lowest_loss_and_never_one_without_a_number(
    losses: tuple[float, ...], best: int | None, without_improvement: int
) -> None:
    progress = after_epochs(*losses)
    assert (progress.best_epoch.epoch if progress.best_epoch else None) == best
    assert progress.epochs_without_improvement == without_improvement
    assert (progress.epoch_loss_sum, progress.epoch_targets) == (0.0, 0)


@pytest.mark.parametrize(
    "losses",
    [
        (0.5, 0.4, 0.4, 0.6, 0.7),
        (NAN,) * 4,
        (NAN, 0.5, NAN, 0.5),
        (0.5, NAN, NAN),
        (0.4, 0.4, 0.3),
        (0.0, 0.0),
    ],
)
def test_ray_keeps_the_checkpoint_that_the_run_goes_back_to(
    tmp_path: Path, losses: tuple[float, ...]
) -> None:
    values = {
        "name": "t",
        "task": "sft",
        "model": "m",
        "data": {"path": "rows"},
        "early_stopping_patience": 9,
    }
    kept = _CheckpointManager(_checkpoints_kept(FinetuneConfig.model_validate(values)))
    for epoch in range(1, len(losses) + 1):
        ended = after_epochs(*losses[:epoch])
        within = replace(after_epochs(*losses[: epoch - 1]), step=ended.step - 5)
        for progress in (within, ended):
            folder = tmp_path / str(progress.step)
            folder.mkdir()
            result = _TrainingResult(Checkpoint(str(folder)), {CHECKPOINT_SCORE: progress.score})
            kept.register_checkpoint(result)
            best = progress.best_epoch
            needed = {progress.step, *([best.step] if best else [])}
            assert {int(path.name) for path in tmp_path.iterdir()} == needed
