from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from retrieval.padding import padded_batches


@given(st.lists(st.integers(1, 600), max_size=60), st.integers(1, 2048), st.integers(0, 300))
def test_batches_hold_every_text_once_and_stay_within_both_bounds(
    lengths: list[int], max_tokens: int, pass_tokens: int
) -> None:
    batches = padded_batches(lengths, max_tokens, pass_tokens)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    for batch in batches:
        padded = len(batch) * max(lengths[index] for index in batch)
        assert padded <= max_tokens or len(batch) == 1
        assert padded - sum(lengths[index] for index in batch) <= pass_tokens


@given(st.lists(st.integers(1, 90), min_size=1, max_size=60))
def test_a_batch_ends_only_where_a_bound_would_be_passed(lengths: list[int]) -> None:
    batches = padded_batches(lengths, max_tokens=1000, pass_tokens=50)
    for batch, following in itertools.pairwise(batches):
        longer = [lengths[index] for index in [*batch, following[0]]]
        padding = len(longer) * longer[0] - sum(longer)
        assert len(longer) * longer[0] > 1000 or padding > 50


def test_texts_of_one_length_are_one_batch() -> None:
    assert padded_batches([7] * 20, max_tokens=140, pass_tokens=0) == [list(range(20))]
