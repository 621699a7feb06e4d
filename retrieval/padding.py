"""Which texts are computed together. A pure decision, for every model that pads its texts to one length."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Bounds(NamedTuple):
    """What bounds the batches of `padded_batches`, in tokens.

    `max_tokens`: of one forward pass, padding included. Above it nothing is gained on CPU (caches) and memory is
    spent on GPU. `pass_tokens`: what a pass costs beside its tokens (starting its operations), as tokens computed in
    that time.
    """

    max_tokens: int
    pass_tokens: int


# MiniLM in batches of 32 texts of 20 to 88 tokens, on 2 cores: 61 texts/s in one pass each, 83 with 64 tokens a pass,
# 82 with twice as many.
CPU_BOUNDS = Bounds(max_tokens=8192, pass_tokens=64)
GPU_BOUNDS = Bounds(max_tokens=32768, pass_tokens=2048)


def bounds_of(*, on_gpu: bool) -> Bounds:
    return GPU_BOUNDS if on_gpu else CPU_BOUNDS


def padded_batches(lengths: Sequence[int], max_tokens: int, pass_tokens: int) -> list[list[int]]:
    """Indices of the texts of each batch, neighbours in length, longest first; `lengths` are in tokens.

    All texts of a batch are padded to its longest. It holds at most `max_tokens` so, and at most `pass_tokens` of
    padding, since above that another pass is cheaper. A text longer than `max_tokens` is a batch of its own.

    >>> padded_batches([3, 9, 4, 3], max_tokens=10, pass_tokens=64)
    [[1], [2, 0], [3]]
    >>> padded_batches([90, 10, 88, 12], max_tokens=8192, pass_tokens=64)
    [[0, 2], [3, 1]]
    """
    batches: list[list[int]] = []
    longest = padding = 0
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        padding += longest - lengths[index]
        is_full = not batches or longest * (len(batches[-1]) + 1) > max_tokens
        if is_full or padding > pass_tokens:
            batches.append([])
            longest, padding = lengths[index], 0
        batches[-1].append(index)
    return batches
