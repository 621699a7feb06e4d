"""Percentiles of whole numbers from a histogram: exact, in memory that does not grow with the rows."""

from __future__ import annotations

from collections import Counter
from itertools import accumulate

PERCENTILES = (50, 90, 95, 99)


def summary(counts: Counter[int]) -> dict[str, float]:
    """Smallest, percentiles, largest, mean and total of the values that `counts` counts.

    The p-th percentile is the smallest value that at least p % of the values do not exceed (nearest rank).

    >>> summary(Counter([1, 2, 3, 4, 100]))
    {'min': 1, 'p50': 3, 'p90': 100, 'p95': 100, 'p99': 100, 'max': 100, 'mean': 22.0, 'total': 110}
    """
    values = sorted(counts)
    up_to = list(accumulate(counts[value] for value in values))
    number = up_to[-1]
    total = sum(value * count for value, count in counts.items())
    result: dict[str, float] = {"min": values[0]}
    for percent in PERCENTILES:
        rank = -(-percent * number // 100)
        result[f"p{percent}"] = next(v for v, n in zip(values, up_to, strict=True) if n >= rank)
    return {**result, "max": values[-1], "mean": round(total / number, 1), "total": total}
