"""Points in requests of bounded size. A pure decision, tested without a server."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from retrieval.store import Point

# A request above these takes a server seconds and may be refused for its size (32 MB by default).
MAX_POINTS = 256
MAX_BYTES = 4 << 20

# JSON characters of one float32, and of the fields around the text of a payload.
BYTES_PER_NUMBER = 12
BYTES_PER_PAYLOAD = 500


def bounded_batches(
    points: Sequence[Point], max_points: int = MAX_POINTS, max_bytes: int = MAX_BYTES
) -> Iterator[list[Point]]:
    """The points in order, in batches within both bounds; one that alone exceeds `max_bytes` goes alone."""
    batch: list[Point] = []
    batch_bytes = 0
    for point in points:
        size = estimated_bytes(point)
        if batch and (len(batch) == max_points or batch_bytes + size > max_bytes):
            yield batch
            batch, batch_bytes = [], 0
        batch.append(point)
        batch_bytes += size
    if batch:
        yield batch


def estimated_bytes(point: Point) -> int:
    """About how long a point is as JSON; characters are counted as four bytes, which is their most."""
    numbers = len(point.dense) + 2 * len(point.sparse.indices)
    characters = sum(len(value) for value in point.payload.values() if isinstance(value, str))
    return BYTES_PER_NUMBER * numbers + BYTES_PER_PAYLOAD + 4 * characters
