"""Every random number of a run follows from its seed."""

from __future__ import annotations

import random

import numpy as np
import torch


def step_seed(seed: int, step: int, rank: int) -> int:
    """Seed of the dropout of one step on one rank: 32 bits, because torch's generator on CPU takes no more.

    >>> step_seed(42, step=1, rank=0) == step_seed(43, step=1, rank=0)
    False
    """
    return int(np.random.SeedSequence((seed, step, rank)).generate_state(1)[0])


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch alike on every rank: weights of a new head must be equal on all."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
