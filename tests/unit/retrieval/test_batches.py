from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from retrieval.batches import bounded_batches, estimated_bytes
from retrieval.store import Point, SparseVector


def point(text_length: int) -> Point:
    return Point("0" * 32, np.ones(4, dtype=np.float32), SparseVector((), ()), {"text": "x" * text_length})


@given(st.lists(st.integers(0, 3000)), st.integers(1, 5), st.integers(1, 20_000))
def test_batches_keep_order_and_both_bounds(lengths: list[int], max_points: int, max_bytes: int) -> None:
    points = [point(length) for length in lengths]
    batches = list(bounded_batches(points, max_points, max_bytes))
    assert [item for batch in batches for item in batch] == points
    for batch in batches:
        assert 1 <= len(batch) <= max_points
        assert len(batch) == 1 or sum(map(estimated_bytes, batch)) <= max_bytes
