"""A sink that writes TensorBoard's event file into the run's folder. tensorboardX comes with Ray Tune."""

from __future__ import annotations

from pathlib import Path

from tensorboardX import SummaryWriter

from training.progress import EpochEvent, Event, StepEvent, scalars_of


class TensorBoard:
    """Scalars under `train/` at each step event and `validation/` at each epoch."""

    def __init__(self, folder: Path) -> None:
        self._writer = SummaryWriter(logdir=str(folder), flush_secs=10)

    def __call__(self, event: Event) -> None:
        if isinstance(event, StepEvent | EpochEvent):
            for name, value in scalars_of(event).items():
                self._writer.add_scalar(name, value, event.step)

    def close(self) -> None:
        self._writer.close()
