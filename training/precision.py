"""In which numbers a forward pass runs: what was asked for, and what the processor has."""

from __future__ import annotations

import torch
import torch.distributed as dist

from cluster.processor import has_bf16
from training.config import Precision


def choose_precision(wanted: Precision, *, on_gpu: bool) -> Precision:
    """bf16 when it was asked for, or when `auto` and the processor has it: every rank's, where there are several."""
    if wanted is not Precision.AUTO:
        return wanted
    votes: list[bool | None] = [has_bf16(on_gpu)]
    if dist.is_initialized():
        votes *= dist.get_world_size()  # room for the others'
        dist.all_gather_object(votes, votes[0])
    return Precision.BF16 if all(votes) else Precision.FLOAT32


def dtype_of(precision: Precision) -> torch.dtype:
    """Of weights that are only read. Those that are trained are float32 in either precision."""
    return torch.bfloat16 if precision is Precision.BF16 else torch.float32
