"""What a train loop begins with, how far it is, and what it comes to. No torch here."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

from training.config import FinetuneConfig, Precision
from training.progress import EpochEvent

# The figure that Ray Train is told of each checkpoint, see `Progress.score`.
CHECKPOINT_SCORE = "score"


@dataclass(frozen=True)
class LoopInputs:
    """What every worker gets. `dataset` is an object reference, fetched once per node.

    `run_uri` is the run's folder of checkpoints; `resume_uri` the checkpoint to begin from, when there is one.
    `export_uri` is where the model is exported to, None when it is not; `adapter_uri`, followed by its step,
    where each epoch's adapter is, when it shall be. `data_sha256` is the digest of the run's rows, for its
    checkpoints; None when no run goes on from them.
    """

    config: FinetuneConfig
    dataset: Any
    pad_token_id: int
    run_uri: str
    export_uri: str | None
    event_log: Any
    resume_uri: str | None = None
    adapter_uri: str | None = None
    data_sha256: str | None = None


@dataclass(frozen=True)
class Progress:
    """How far a run is. Saved in every checkpoint, so that a resumed run ends as an undisturbed one."""

    step: int = 0
    epoch_loss_sum: float = 0.0
    epoch_targets: int = 0
    trained_tokens: int = 0
    num_examples: int = 0
    num_tokens: int = 0
    step_seconds: float = 0.0
    last_epoch: EpochEvent = field(default_factory=lambda: EpochEvent(0, 0, 0.0, 0.0))
    best_epoch: EpochEvent | None = None

    @staticmethod
    def from_json(value: dict[str, Any]) -> Progress:
        best = value["best_epoch"]
        epochs = {"last_epoch": EpochEvent(**value["last_epoch"])}
        return Progress(**{**value, **epochs, "best_epoch": EpochEvent(**best) if best else None})

    def after(self, event: EpochEvent) -> Progress:
        """Once an epoch is evaluated. Of equal ones the first stays the best; one whose loss is no number never is."""
        loss, best = event.validation_loss, self.best_epoch
        if math.isfinite(loss) and (best is None or loss < best.validation_loss):
            best = event
        return replace(self, epoch_loss_sum=0.0, epoch_targets=0, last_epoch=event, best_epoch=best)

    @property
    def score(self) -> float:
        """What Ray Train keeps the best checkpoint by: the validation loss of one that is the best so far.

        Infinite for any other, one within an epoch included, so that Ray keeps what the run goes back to:
        by the losses alone it would keep the last of equal ones.
        """
        best = self.best_epoch
        return best.validation_loss if best is not None and best.step == self.step else math.inf

    @property
    def epochs_without_improvement(self) -> int:
        return self.last_epoch.epoch - (self.best_epoch.epoch if self.best_epoch else 0)


@dataclass(frozen=True)
class LoopResult:
    """What rank 0 returns: final validation figures (`confusion` of classes) and what was trained.

    `is_paused`: it was asked to stop and saved a checkpoint; nothing is exported. `train_seconds` counts
    the steps alone, without evaluation and checkpoints, over all attempts.
    """

    precision: Precision
    validation_loss: float
    metrics: dict[str, float]
    trained_tokens: int
    steps: int
    train_seconds: float
    confusion: dict[str, dict[str, int]] = field(default_factory=dict)
    examples_per_s: float = 0.0
    tokens_per_s: float = 0.0
    peak_memory_bytes: int = 0
    world_size: int = 1
    used_gpu: bool = False
    is_paused: bool = False
