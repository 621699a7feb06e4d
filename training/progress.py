"""What a run tells while it goes: events from rank 0 to the driver, and their plain-text form.

Workers never print: with many of them the log would be noise. Rank 0 posts events to a small actor, the
driver reads them, writes `metrics.jsonl` and prints.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TextIO

import ray

# Seconds between two progress lines, and between two looks for events.
LINE_EVERY_S = 5.0
POLL_EVERY_S = 0.3


@dataclass(frozen=True)
class StepEvent:
    """After an optimizer step (rank 0's clock, losses over all ranks since the last such event)."""

    step: int
    total_steps: int
    epoch: int
    loss: float
    learning_rate: float
    grad_norm: float
    examples_per_s: float
    tokens_per_s: float
    kind: str = "step"


@dataclass(frozen=True)
class EpochEvent:
    """After an epoch and its evaluation. `metrics` are named as in the epoch table."""

    epoch: int
    step: int
    training_loss: float
    validation_loss: float
    metrics: dict[str, float] = field(default_factory=dict)
    kind: str = "epoch"


@dataclass(frozen=True)
class NoticeEvent:
    """Something the user should know, in one sentence."""

    text: str
    kind: str = "notice"


Event = StepEvent | EpochEvent | NoticeEvent


class EventLog:
    """Events of one run, in order. Runs as a Ray actor that lives as long as the driver."""

    def __init__(self) -> None:
        self._events: list[Event] = []

    def post(self, event: Event) -> None:
        self._events.append(event)

    def after(self, position: int) -> list[Event]:
        """Events from `position` on."""
        return self._events[position:]


def watch(log: Any, is_done: Callable[[], bool], sinks: list[Callable[[Event], None]]) -> None:
    """Hand every event to every sink until `is_done`; the last look comes after it, so none is missed."""
    position = 0
    while True:
        finished = is_done()
        for event in ray.get(log.after.remote(position)):
            position += 1
            for sink in sinks:
                sink(event)
        if finished:
            return
        time.sleep(POLL_EVERY_S)


class MetricsFile:
    """Sink that appends one JSON object per event to `metrics.jsonl`."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path

    def __call__(self, event: Event) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"time": time.time(), **asdict(event)}) + "\n")


class PlainProgress:
    """Sink that prints lines which read well in `ray job logs`: no control characters, no bars."""

    def __init__(self, epochs: int, output: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._epochs = epochs
        self._output = output
        self._clock = clock
        self._last_line = float("-inf")
        self._rows: list[EpochEvent] = []

    def __call__(self, event: Event) -> None:
        if isinstance(event, NoticeEvent):
            self._print(event.text)
        elif isinstance(event, EpochEvent):
            self._rows.append(event)
            self._print(epoch_table(self._rows).splitlines()[-1], head=len(self._rows) == 1)
        elif self._clock() - self._last_line >= LINE_EVERY_S:
            self._last_line = self._clock()
            self._print(step_line(event, self._epochs))

    def _print(self, text: str, head: bool = False) -> None:
        if head:
            self._output.write("\n".join(epoch_table(self._rows).splitlines()[:-1]) + "\n")
        self._output.write(text + "\n")
        self._output.flush()


def step_line(event: StepEvent, epochs: int) -> str:
    """One progress line, with the time left at the present speed."""
    return (
        f"  epoch {event.epoch}/{epochs}  step {event.step}/{event.total_steps}  loss {event.loss:.4f}  "
        f"lr {event.learning_rate:.1e}  {event.examples_per_s:.1f} examples/s  {event.tokens_per_s:.0f} tokens/s"
    )


def epoch_table(rows: list[EpochEvent]) -> str:
    """The table people know from the Trainer's notebook view.

    >>> print(epoch_table([EpochEvent(1, 10, 0.61, 0.5, {"accuracy": 0.75, "f1": 0.8})]))
    Epoch  Training Loss  Validation Loss  Accuracy      F1
        1         0.6100           0.5000    0.7500  0.8000
    """
    names = list(rows[0].metrics)
    titles = ["Epoch", "Training Loss", "Validation Loss", *(_title(name) for name in names)]
    widths = [max(len(title), 6) for title in titles]
    widths[0] = len("Epoch")
    lines = ["  ".join(title.rjust(width) for title, width in zip(titles, widths, strict=True))]
    for row in rows:
        values = [row.training_loss, row.validation_loss, *(row.metrics[name] for name in names)]
        cells = [str(row.epoch), *(f"{value:.4f}" for value in values)]
        lines.append("  ".join(cell.rjust(width) for cell, width in zip(cells, widths, strict=True)))
    return "\n".join(lines)


def _title(name: str) -> str:
    return "F1" if name == "f1" else name.replace("_", " ").title()
