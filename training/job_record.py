"""A fine-tuning job's record, kept by the run that works on it: events, checkpoints, its end.

The record is another's (`cluster/fine_tuning_jobs.py`); here is what of a run goes into it.
"""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from sqlalchemy.exc import SQLAlchemyError

from cluster.cards import ModelCard
from cluster.errors import HamletError, Unavailable
from cluster.fine_tuning_jobs import FineTuningJobs
from training.progress import AdapterEvent, EpochEvent, Event, NoticeEvent, StepEvent

log = logging.getLogger(__name__)

# How long to try to write the rest of a record before the run ends without it.
DRAIN_S = 30.0


class MakeAdapterCard(Protocol):
    def __call__(self, event: AdapterEvent) -> ModelCard:
        """The card of an epoch's adapter, proven as far as it can be without evaluating it again."""


class JobRecord:
    """Sink that writes a run's events into its job's record.

    A database that is away for a while holds up no training: what cannot be written is kept, in order.
    """

    def __init__(
        self,
        job_id: str,
        make_adapter_card: MakeAdapterCard,
        jobs: FineTuningJobs,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._job_id = job_id
        self._make_adapter_card = make_adapter_card
        self._jobs = jobs
        self._clock = clock
        self._waiting: deque[Event] = deque()

    def __call__(self, event: Event) -> None:
        self._waiting.append(event)
        self._write_waiting()

    def say(self, text: str, level: str = "info") -> None:
        """Record a message."""
        self(NoticeEvent(text, level))

    def drain(self) -> None:
        """Write what still waits; what cannot be written in half a minute is given up."""
        until = self._clock() + DRAIN_S
        while self._waiting and not self._write_waiting() and self._clock() < until:
            time.sleep(1.0)

    def _write_waiting(self) -> bool:
        while self._waiting:
            try:
                self._write(self._waiting[0])
            except (SQLAlchemyError, Unavailable) as exc:
                log.warning("the job's record cannot be written: %s", exc.__class__.__name__)
                return False
            self._waiting.popleft()
        return True

    def _write(self, event: Event) -> None:
        if isinstance(event, AdapterEvent):
            card = self._make_adapter_card(event)
            self._jobs.add_checkpoint(self._job_id, event.step, card.id, event.metrics, card)
        elif isinstance(event, NoticeEvent):
            level = "warn" if event.level == "warn" else "info"
            self._jobs.post_event(self._job_id, event.text, level=level)  # type: ignore[arg-type]
        else:
            message, data = describe(event)
            self._jobs.post_event(self._job_id, message, type="metrics", data=data)


def describe(event: StepEvent | EpochEvent) -> tuple[str, dict[str, float | None]]:
    """An event in the words of OpenAI's API: its message and its metrics, those that are no number as None.

    >>> describe(EpochEvent(1, 26, 0.5, 0.25, {"accuracy": 0.75}))[1]
    {'step': 26, 'epoch': 1, 'full_valid_loss': 0.25, 'full_valid_accuracy': 0.75}
    """
    if isinstance(event, StepEvent):
        message = f"Step {event.step}/{event.total_steps}: training loss={event.loss:.4f}"
        return message, _finite(
            step=event.step,
            total_steps=event.total_steps,
            train_loss=event.loss,
            learning_rate=event.learning_rate,
            grad_norm=event.grad_norm,
            tokens_per_s=event.tokens_per_s,
            seconds_left=event.seconds_left,
        )
    figures = {f"full_valid_{name}": value for name, value in event.metrics.items()}
    message = f"Epoch {event.epoch} (step {event.step}): validation loss={event.validation_loss:.4f}"
    return message, _finite(
        step=event.step, epoch=event.epoch, full_valid_loss=event.validation_loss, **figures
    )


def _finite(**figures: float) -> dict[str, float | None]:
    # JSON has no infinity and no NaN, and PostgreSQL takes neither: a run that diverges has both.
    return {name: value if math.isfinite(value) else None for name, value in figures.items()}


@contextmanager
def failure_recorded(job_id: str, jobs: FineTuningJobs) -> Iterator[None]:
    """Whatever ends the run within becomes the job's error, before it goes on as it was raised.

    Only what may be over at the next try (a store, a database, a head that is away) ends this process and not
    the job: whoever started it starts it again.
    """
    try:
        yield
    except Unavailable as exc:
        jobs.post_event(job_id, f"this attempt could not go on: {exc.message}", level="warn")
        raise
    except HamletError as exc:
        jobs.fail(job_id, exc.message, exc.code, exc.param)
        raise
    except Exception as exc:
        jobs.fail(job_id, f"{type(exc).__name__}: {exc}", "internal_error")
        raise
