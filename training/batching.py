"""Which rows form which batch: pure, seeded, and the same for any number of workers.

The global batches of an epoch depend on the seed, the epoch and the rows alone. Workers and
accumulation only cut a given global batch into pieces, so 1 worker x 8 rows, 1 x 2 x 4 and
2 x 2 x 2 compute the same gradient.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

# Rows are sorted by length within windows of at most this many batches: long enough that batches are
# nearly even in length (1.15 x faster on MRPC), short enough that their order stays random.
WINDOW_BATCHES = 50
# An epoch has at least this many windows. One window over all rows would sort them the same way in every
# epoch, and so make nearly the same batches again and again.
MIN_WINDOWS = 4


@dataclass(frozen=True, slots=True)
class Step:
    """One optimizer step: `rows[rank][micro_batch]` is a list of row indices, possibly empty.

    Every rank has the same number of micro-batches, because ranks meet in collectives at each forward
    pass under ZeRO 3; a rank left without rows runs a row of weight zero instead of hanging the others.
    """

    rows: list[list[list[int]]]

    @property
    def row_indices(self) -> list[int]:
        return [index for rank in self.rows for micro_batch in rank for index in micro_batch]


def plan_epoch(
    lengths: Sequence[int],
    *,
    global_batch_size: int,
    micro_batch_size: int,
    world_size: int,
    seed: int,
    epoch: int,
) -> list[Step]:
    """The steps of one epoch; each row occurs exactly once.

    `lengths` are tokens per row. The last step may be smaller; its loss is averaged over its own rows.

    >>> [s.row_indices for s in plan_epoch([5, 9, 6, 8], global_batch_size=2, micro_batch_size=1,
    ...                                    world_size=2, seed=0, epoch=0)]
    [[3, 2], [1, 0]]
    """
    # A string seeds `random` by its SHA-512, stable over processes and Python versions.
    shuffle = random.Random(f"{seed}:{epoch}")
    order = list(range(len(lengths)))
    shuffle.shuffle(order)
    batches: list[list[int]] = []
    window = global_batch_size * window_batches(-(-len(order) // global_batch_size))
    for start in range(0, len(order), window):
        by_length = sorted(order[start : start + window], key=lambda index: lengths[index], reverse=True)
        batches += [by_length[i : i + global_batch_size] for i in range(0, len(by_length), global_batch_size)]
    shuffle.shuffle(batches)
    accumulation = accumulation_steps(global_batch_size, micro_batch_size, world_size)
    return [_cut(batch, micro_batch_size, accumulation, world_size) for batch in batches]


def window_batches(num_batches: int) -> int:
    """Batches that are sorted by length together, in an epoch of `num_batches`.

    >>> [window_batches(n) for n in (3, 20, 500)]
    [1, 5, 50]
    """
    return max(1, min(WINDOW_BATCHES, num_batches // MIN_WINDOWS))


def accumulation_steps(global_batch_size: int, micro_batch_size: int, world_size: int) -> int:
    """Forward passes of each rank in a step: enough for its share of the global batch.

    >>> [accumulation_steps(16, 4, workers) for workers in (1, 2, 3, 4)]
    [4, 2, 2, 1]
    """
    return -(-global_batch_size // (micro_batch_size * world_size))


def plan_evaluation(lengths: Sequence[int], *, batch_size: int, world_size: int) -> list[Step]:
    """Batches for evaluation, longest first; each row once, on one rank."""
    order = sorted(range(len(lengths)), key=lambda index: lengths[index], reverse=True)
    size = batch_size * world_size
    return [_cut(order[i : i + size], batch_size, 1, world_size) for i in range(0, len(order), size)]


def _cut(batch: list[int], micro_batch_size: int, accumulation: int, world_size: int) -> Step:
    """Deal neighbours (rows of like length) to different ranks, so that ranks finish together."""
    pieces: list[list[list[int]]] = []
    for rank in range(world_size):
        mine = batch[rank::world_size]
        pieces.append([mine[i * micro_batch_size : (i + 1) * micro_batch_size] for i in range(accumulation)])
    return Step(pieces)
