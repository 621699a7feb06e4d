"""A sink that writes TensorBoard's event file into the run's folder. tensorboardX comes with Ray Tune."""

from __future__ import annotations

from pathlib import Path

from tensorboardX import SummaryWriter

from training.progress import EpochEvent, Event, StepEvent


class TensorBoard:
    """Scalars under `train/` at each step event and `validation/` at each epoch."""

    def __init__(self, folder: Path) -> None:
        self._writer = SummaryWriter(logdir=str(folder), flush_secs=10)

    def __call__(self, event: Event) -> None:
        if isinstance(event, StepEvent):
            scalars = {
                "train/loss": event.loss,
                "train/learning_rate": event.learning_rate,
                "train/grad_norm": event.grad_norm,
                "train/tokens_per_s": event.tokens_per_s,
            }
        elif isinstance(event, EpochEvent):
            scalars = {"validation/loss": event.validation_loss}
            scalars |= {f"validation/{name}": value for name, value in event.metrics.items()}
        else:
            return
        for name, value in scalars.items():
            self._writer.add_scalar(name, value, event.step)

    def close(self) -> None:
        self._writer.close()
