"""What a run tells while it goes: events from rank 0 to the driver, and their plain-text form.

Workers never print: with many of them the log would be noise. Rank 0 posts events to a small actor, the
driver reads them and hands them to sinks: the log, the run's folder, the job's record.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TextIO

import ray

from training.heartbeat import Beat, Order, Position, describe_hang, next_beat, stuck_ranks

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
    seconds_left: float
    kind: str = "step"


@dataclass(frozen=True)
class EpochEvent:
    """After an epoch and its evaluation. `metrics` are named as in the epoch table; `confusion` of classes."""

    epoch: int
    step: int
    training_loss: float
    validation_loss: float
    metrics: dict[str, float] = field(default_factory=dict)
    confusion: dict[str, dict[str, int]] = field(default_factory=dict)
    kind: str = "epoch"


@dataclass(frozen=True)
class AdapterEvent:
    """An epoch's adapter lies exported at `uri`, ready to be registered."""

    step: int
    uri: str
    metrics: dict[str, float] = field(default_factory=dict)
    kind: str = "adapter"


@dataclass(frozen=True)
class NoticeEvent:
    """Something the user should know, in one sentence."""

    text: str
    level: str = "info"
    kind: str = "notice"


Event = StepEvent | EpochEvent | AdapterEvent | NoticeEvent
Sink = Callable[[Event], None]


def scalars_of(event: StepEvent | EpochEvent) -> dict[str, float]:
    """The figures of an event for a tracker's curves, under `train/` and `validation/`.

    >>> scalars_of(EpochEvent(1, 26, 0.5, 0.25, {"accuracy": 0.75}))
    {'validation/loss': 0.25, 'validation/accuracy': 0.75}
    """
    if isinstance(event, StepEvent):
        names = ("loss", "learning_rate", "grad_norm", "tokens_per_s")
        return {f"train/{name}": getattr(event, name) for name in names}
    figures = {"loss": event.validation_loss, **event.metrics}
    return {f"validation/{name}": value for name, value in figures.items()}


class EventLog:
    """Events of one run in order, and its ranks' signs of life. Runs as a Ray actor of the driver's."""

    def __init__(self, hang_timeout_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._hang_timeout_s = hang_timeout_s
        self._clock = clock
        self._events: list[Event] = []
        self._beats: dict[int, Beat] = {}
        self._pause = False
        self._is_waiting = False
        self._starts = 0
        self._has_told_hang = False

    def post(self, event: Event) -> None:
        self._events.append(event)

    def after(self, position: int) -> list[Event]:
        """Events from `position` on."""
        self._tell_of_hangs()
        return self._events[position:]

    def start(self) -> int:
        """Rank 0 begins to train; returns how often one did before, in this driver's time."""
        self._beats.clear()
        self._starts += 1
        return self._starts - 1

    def beat(self, rank: int, position: Position) -> Order:
        """A rank is at `position`; returns what it shall do."""
        self._beats[rank] = next_beat(self._beats.get(rank), position, self._clock())
        if position.is_limited and rank in stuck_ranks(self._beats, self._clock(), self._hang_timeout_s):
            return Order.END
        return Order.PAUSE if self._pause else Order.GO_ON

    def leave(self, rank: int) -> None:
        """A rank has ended its part, and nobody waits for it."""
        self._beats.pop(rank, None)

    def pause(self) -> None:
        """Ask the ranks to save and stop after the step they are in."""
        self._pause = True

    def wait(self, is_waiting: bool) -> None:
        """Whether the run has no workers, and seeks room for them: nobody then hears of a pause."""
        self._is_waiting = is_waiting

    def is_waiting(self) -> bool:
        return self._is_waiting

    def _tell_of_hangs(self) -> None:
        now = self._clock()
        stuck = stuck_ranks(self._beats, now, self._hang_timeout_s)
        if stuck and not self._has_told_hang:
            self.post(NoticeEvent(describe_hang(stuck, self._beats, now), level="warn"))
        self._has_told_hang = bool(stuck)


class EventReader:
    """Hands each event of a log to every sink, once and in order."""

    def __init__(self, log: Any, sinks: list[Sink]) -> None:
        self._log = log
        self._sinks = sinks
        self._position = 0

    def read(self) -> None:
        for event in ray.get(self._log.after.remote(self._position)):
            self._position += 1
            for sink in self._sinks:
                sink(event)


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
            self._print_epoch(event)
        elif isinstance(event, StepEvent) and self._clock() - self._last_line >= LINE_EVERY_S:
            self._last_line = self._clock()
            self._print(step_line(event, self._epochs))

    def _print_epoch(self, event: EpochEvent) -> None:
        if self._rows and event.epoch <= self._rows[-1].epoch:
            return  # a restart repeats what was not in its checkpoint; the table shows it once
        self._rows.append(event)
        lines = epoch_table(self._rows).splitlines()
        for line in lines if len(self._rows) == 1 else lines[-1:]:
            self._print(line)

    def _print(self, text: str) -> None:
        self._output.write(text + "\n")
        self._output.flush()


def step_line(event: StepEvent, epochs: int) -> str:
    """One progress line, with the time left at the present speed."""
    return (
        f"  epoch {event.epoch}/{epochs}  step {event.step}/{event.total_steps}  loss {event.loss:.4f}  "
        f"lr {event.learning_rate:.1e}  {event.examples_per_s:.1f} examples/s  "
        f"{event.tokens_per_s:.0f} tokens/s  {duration(event.seconds_left)} left"
    )


def duration(seconds: float) -> str:
    """A time for people, to two places.

    >>> [duration(s) for s in (4.2, 75, 7500, 200_000)]
    ['4 s', '1 min 15 s', '2 h 05 min', '2 d 07 h']
    """
    whole = round(seconds)
    for limit, unit, part, part_unit in (
        (86_400, "d", 3600, "h"),
        (3600, "h", 60, "min"),
        (60, "min", 1, "s"),
    ):
        if whole >= limit:
            width = 2 if unit != "min" else 1
            return f"{whole // limit} {unit} {whole % limit // part:0{width}d} {part_unit}"
    return f"{whole} s"


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
