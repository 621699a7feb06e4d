"""Dropout differs with the run's seed, the step and the rank, in the generator that draws it."""

from __future__ import annotations

import torch
from torch.nn import functional

from training.seeds import step_seed


def dropped(seed: int, step: int, rank: int) -> torch.Tensor:
    torch.manual_seed(step_seed(seed, step, rank))
    return functional.dropout(torch.ones(10_000), 0.1) == 0


def test_seed_step_and_rank_each_change_the_mask() -> None:
    mask = dropped(42, 5, 0)
    assert torch.equal(mask, dropped(42, 5, 0))
    for other in (dropped(43, 5, 0), dropped(42, 6, 0), dropped(42, 5, 1)):
        # Independent masks of 0.1 share one place in a hundred.
        assert 50 < int((mask & other).sum()) < 150
