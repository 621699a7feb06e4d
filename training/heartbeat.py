"""Signs of life: where each rank is, told twice a second, so that a stuck one can be named.

In a collective all ranks wait for one. The watchdog therefore does not ask who waits, but who is behind:
the rank that has gone least far, or that says nothing any more, is the one the others wait for. It is told to end,
since Ray Train starts the workers anew when one is lost, and does not see one that hangs.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

import ray

BEAT_EVERY_S = 0.5
# A rank whose thread is silent for this long is stopped or gone, not just busy.
SILENT_AFTER_S = 10.0

# What a rank does within a step, in order.
PHASES = ("starting", "reading rows", "forward", "backward", "update", "evaluating", "saving")
# Those that take as long as storage takes to give the base or to take the export, whatever our limit.
UNLIMITED = ("starting", "saving")


class Order(Enum):
    """What a rank is told when it gives a sign of life."""

    GO_ON = "go on"
    PAUSE = "pause"  # save, and stop after this step
    END = "end"  # it hangs


@dataclass(frozen=True, order=True)
class Position:
    """How far a rank has come."""

    step: int = 0
    phase: int = 0
    part: int = 0  # of an evaluation, its batch

    def __str__(self) -> str:
        return f"step {self.step}, {PHASES[self.phase]}"

    @property
    def is_limited(self) -> bool:
        """Whether a rank that stays here for long hangs."""
        return PHASES[self.phase] not in UNLIMITED


@dataclass(frozen=True)
class Beat:
    """What is known of a rank: where it was last seen, since when it is there, when it last spoke."""

    position: Position
    moved_at: float
    heard_at: float


def next_beat(last: Beat | None, position: Position, now: float) -> Beat:
    """The knowledge of a rank after it has told its position."""
    if last is not None and last.position == position:
        return replace(last, heard_at=now)
    return Beat(position, moved_at=now, heard_at=now)


def stuck_ranks(beats: Mapping[int, Beat], now: float, limit_s: float) -> list[int]:
    """The ranks that keep the others waiting; none while any rank moves."""
    if not beats or any(now - beat.moved_at < limit_s for beat in beats.values()):
        return []
    silent = [rank for rank, beat in sorted(beats.items()) if _is_silent(beat, now)]
    least = min(beat.position for beat in beats.values())
    return silent or [rank for rank, beat in sorted(beats.items()) if beat.position == least]


def describe_hang(stuck: Sequence[int], beats: Mapping[int, Beat], now: float) -> str:
    """Where the ranks are that keep the others waiting, and what follows.

    >>> still = Beat(Position(7, 2), moved_at=0, heard_at=99)
    >>> waiting = Beat(Position(7, 3), moved_at=1, heard_at=99)
    >>> describe_hang([1], {0: waiting, 1: still}, now=100).split("; ")[:2]
    ['the run hangs: rank 1 has not moved for 100 s (step 7, forward)', 'rank 0 waits at step 7, backward']
    """
    parts = [_describe(rank, beats[rank], now) for rank in stuck]
    parts += [f"rank {rank} waits at {beats[rank].position}" for rank in sorted(beats.keys() - {*stuck})[:3]]
    if all(beats[rank].position.is_limited or _is_silent(beats[rank], now) for rank in stuck):
        # By itself, or by Ray Train's own check where it says nothing.
        parts.append("it is ended, which counts as a failure")
    else:
        parts.append("it is left alone, since only storage may be slow")
    return f"the run hangs: {'; '.join(parts)}"


def _describe(rank: int, beat: Beat, now: float) -> str:
    is_silent = _is_silent(beat, now)
    what = "says nothing" if is_silent else "has not moved"
    since = beat.heard_at if is_silent else beat.moved_at
    return f"rank {rank} {what} for {now - since:.0f} s ({beat.position})"


def _is_silent(beat: Beat, now: float) -> bool:
    return now - beat.heard_at >= SILENT_AFTER_S


def _end_process() -> None:
    # Not by an exception: a thread that hangs in a library hears none.
    os._exit(1)


class Heartbeat:
    """Tells the event log where this rank is, and hears from it whether to pause or, when it hangs, to end.

    A thread of its own, since a rank that hangs in a collective cannot speak from its main thread.
    """

    def __init__(self, event_log: Any, rank: int, end: Callable[[], None] = _end_process) -> None:
        self._event_log = event_log
        self._rank = rank
        self._end = end
        self._position = Position()
        self._pause = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name="heartbeat")

    def __enter__(self) -> Heartbeat:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()

    @property
    def should_pause(self) -> bool:
        """Whether the driver was asked to stop. Known to rank 0 first; ranks must agree before they act."""
        return self._pause

    def at(self, step: int, phase: str, part: int = 0) -> None:
        """Note where this rank is. Costs an assignment."""
        self._position = Position(step, PHASES.index(phase), part)

    def _run(self) -> None:
        while True:
            try:
                order = ray.get(self._event_log.beat.remote(self._rank, self._position))
            except ray.exceptions.RayError:
                return  # the driver is gone, and this process soon too
            if order is Order.END:
                self._end()
            self._pause = order is Order.PAUSE
            if self._stop.wait(BEAT_EVERY_S):
                self._event_log.leave.remote(self._rank)
                return
