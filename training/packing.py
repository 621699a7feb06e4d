"""Several short rows in one sequence, so that no position is spent on padding. Pure; no torch here.

Rows of a sequence do not see each other: their positions begin anew, from which transformers makes a
block-diagonal attention mask. What each row contributes to loss and gradient is what it would alone.
"""

from __future__ import annotations

import bisect
import heapq
from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby

from training.examples import IGNORE, Dataset, Example, Examples


def pack(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Row indices by sequence, each sequence at most `capacity` tokens: the longest rows first, each into the
    fullest sequence that has room (best-fit decreasing, at most 11/9 of the fewest possible; Johnson 1974).

    >>> pack([6, 3, 5, 4, 2], capacity=10)
    [[0, 3], [2, 1, 4]]
    """
    sequences: list[list[int]] = []
    # Not one sorted list of sequences, in which each row would move thousands: a sequence has few sizes of room.
    with_room: dict[int, list[int]] = {}  # free tokens -> sequences, a heap
    sizes: list[int] = []  # its keys, sorted
    for row in sorted(range(len(lengths)), key=lambda index: (-lengths[index], index)):
        place = bisect.bisect_left(sizes, lengths[row])
        if place < len(sizes):
            free = sizes[place]
            number = heapq.heappop(with_room[free])
            if not with_room[free]:
                del with_room[free], sizes[place]
        else:
            free, number = capacity, len(sequences)
            sequences.append([])
        sequences[number].append(row)
        left = free - lengths[row]
        if left not in with_room:
            with_room[left] = []
            bisect.insort(sizes, left)
        heapq.heappush(with_room[left], number)
    return sequences


def packed(dataset: Dataset, capacity: int) -> Dataset:
    """The data set with its training rows packed; validation stays as it is, and so do its figures."""
    rows = dataset.train
    sequences = pack(rows.lengths, capacity)
    train = Examples.of(join([rows[index] for index in sequence]) for sequence in sequences)
    notice = f"{len(rows)} training rows are packed into {len(train)} sequences of up to {capacity} tokens"
    return replace(dataset, train=train, notices=(*dataset.notices, notice))


def join(rows: Sequence[Example]) -> Example:
    """Rows one after the other; `segment_ids` number them.

    The first token of a row is no target: alone it has nothing before it to be predicted from.
    """
    return Example(
        [token for row in rows for token in row.input_ids],
        [label for row in rows for label in (IGNORE, *row.labels[1:])],
        [number for number, row in enumerate(rows) for _ in row.input_ids],
    )


def split(sequence: Example) -> list[Example]:
    """The rows of a packed sequence, each on its own again."""
    rows: list[Example] = []
    start = 0
    for _, group in groupby(sequence.segment_ids):
        end = start + len(list(group))
        rows.append(Example(sequence.input_ids[start:end], sequence.labels[start:end], []))
        start = end
    return rows


def positions(segment_ids: Sequence[int], width: int) -> list[int]:
    """Positions that begin anew with each row, and with the padding up to `width`.

    >>> positions([0, 0, 0, 1, 1], width=7)
    [0, 1, 2, 0, 1, 0, 1]
    """
    lengths = [len(list(group)) for _, group in groupby(segment_ids)]
    lengths.append(width - len(segment_ids))
    return [position for length in lengths for position in range(length)]
