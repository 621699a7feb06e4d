"""Every random number of a run follows from its seed."""

from __future__ import annotations

import random

import numpy as np
import torch


def step_seed(seed: int, step: int, rank: int) -> int:
    """Seed of the dropout of one step on one rank: other for each, and within torch's 64 bits.

    >>> step_seed(0, 1, 2)
    65538
    """
    return ((seed << 44) + (step << 16) + rank) % (1 << 63)


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch alike on every rank: weights of a new head must be equal on all."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
