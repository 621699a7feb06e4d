"""In which numbers a forward pass runs: what was asked for, and what the processor has."""

from __future__ import annotations

import torch
import torch.distributed as dist

from cluster.processor import has_bf16
from training.config import Precision


def choose_precision(wanted: Precision) -> Precision:
    """bf16 when it was asked for, or when `auto` and every rank's processor has it."""
    if wanted is not Precision.AUTO:
        return wanted
    votes: list[bool | None] = [None] * dist.get_world_size()
    dist.all_gather_object(votes, has_bf16(torch.cuda.is_available()))
    return Precision.BF16 if all(votes) else Precision.FLOAT32
