from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ray.exceptions import ActorDiedError, NodeDiedError, OutOfMemoryError, RayError

from cluster.errors import ContextLengthExceeded, NotFound, Unavailable
from retrieval.embedding_workers import _translated, shares
from retrieval.vectorizer import renumbered


@given(st.lists(st.integers(1, 1000)), st.integers(1, 9))
def test_every_text_has_one_worker_and_no_worker_two_texts_more_than_another(
    lengths: list[int], num_workers: int
) -> None:
    parts = shares(lengths, num_workers)
    assert len(parts) == num_workers
    assert sorted(index for part in parts for index in part) == list(range(len(lengths)))
    counts = [len(part) for part in parts]
    assert max(counts) - min(counts) <= 1


def test_long_texts_are_dealt_out_evenly() -> None:
    lengths = [100, 90, 1, 2, 80, 70]
    totals = [sum(lengths[index] for index in part) for part in shares(lengths, 2)]
    assert max(totals) - min(totals) <= 30


def test_an_error_names_the_text_as_the_caller_counts() -> None:
    error = renumbered(ContextLengthExceeded("input[1] has 900 tokens", "input[1]"), [7, 4])
    assert (type(error), error.message, error.param) == (
        ContextLengthExceeded,
        "input[4] has 900 tokens",
        "input[4]",
    )


@pytest.mark.parametrize("param", [None, "model"])
def test_an_error_about_no_text_stays_what_it_is(param: str | None) -> None:
    error = NotFound("no model", param)
    assert renumbered(error, [3]) is error


@pytest.mark.parametrize(
    "loss",
    [ActorDiedError(), NodeDiedError("its node died"), OutOfMemoryError("killed by the memory monitor")],
    ids=lambda loss: type(loss).__name__,
)
def test_a_lost_worker_is_told_with_the_way_to_go_on(loss: RayError) -> None:
    with pytest.raises(Unavailable, match="run the same command again"), _translated(()):
        raise loss
