"""Loss and speed of a run since the last reading, on every rank."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist

from training.feed import Amounts

# Seconds between two step events: often enough to watch, rare enough to cost nothing.
STEP_EVENT_EVERY_S = 1.0
# A run of no more steps tells each: its curve would have a handful of points.
FEW_STEPS = 200


@dataclass(frozen=True)
class Reading:
    """Over all ranks, since the reading before."""

    loss_sum: float
    num_targets: int
    num_trained_tokens: int
    num_examples: int
    num_tokens: int
    num_steps: int
    seconds: float

    @property
    def loss(self) -> float:
        return self.loss_sum / max(1, self.num_targets)

    def seconds_left(self, num_steps: int) -> float:
        """Time for so many more steps at this speed."""
        return num_steps * self.seconds / max(1, self.num_steps)


class Meter:
    """Adds up the steps of a run of `total_steps`. Reading is a collective: all ranks read at the same steps."""

    def __init__(
        self, device: torch.device, total_steps: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._device = device
        self._every_s = STEP_EVENT_EVERY_S if total_steps > FEW_STEPS else 0.0
        self._clock = clock
        self._reset()

    def _reset(self) -> None:
        # float64 holds the sum of float32 losses exactly, so it does not depend on when it was read.
        self._loss = torch.zeros((), dtype=torch.float64, device=self._device)
        self._targets = self._trained = self._examples = self._tokens = self._steps = 0
        self._since = self._clock()

    def add(self, loss_sum: torch.Tensor, amounts: Amounts) -> None:
        """One step: this rank's part of its loss, and what it holds over all ranks."""
        self._loss += loss_sum
        self._targets += amounts.num_targets
        self._trained += amounts.num_trained_tokens
        self._examples += amounts.num_rows
        self._tokens += amounts.num_tokens
        self._steps += 1

    @property
    def is_due(self) -> bool:
        """Whether it is time for a step event, by this rank's clock."""
        return self._clock() - self._since >= self._every_s

    def read(self) -> Reading:
        """The sums over all ranks, and start anew."""
        dist.all_reduce(self._loss)
        elapsed = max(self._clock() - self._since, 1e-9)
        reading = Reading(
            float(self._loss),
            self._targets,
            self._trained,
            self._examples,
            self._tokens,
            self._steps,
            elapsed,
        )
        self._reset()
        return reading


def agree(flags: Sequence[bool], device: torch.device) -> list[bool]:
    """Rank 0's flags on every rank. A collective; free with one rank."""
    if dist.get_world_size() == 1:
        return list(flags)
    shared = torch.tensor(flags, device=device)
    dist.broadcast(shared, src=0)
    return [bool(flag) for flag in shared]


def own_peak_memory_bytes(device: torch.device) -> int:
    """The most memory that this process has used: of its GPU, or of its own on CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # macOS counts bytes, Linux KiB


def peak_memory_bytes(device: torch.device) -> int:
    """The most memory that any rank has used. A collective."""
    most = torch.tensor(own_peak_memory_bytes(device), dtype=torch.int64, device=device)
    dist.all_reduce(most, op=dist.ReduceOp.MAX)
    return int(most)
