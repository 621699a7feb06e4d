from __future__ import annotations

import pytest

from serving.hyperparameters import auto_batch_size, auto_epochs, auto_multiplier, decide


@pytest.mark.parametrize(
    ("num_rows", "epochs"),
    [(0, 25), (1, 25), (10, 10), (33, 3), (34, 3), (100, 3), (8333, 3), (9000, 2), (25_000, 1), (10**6, 1)],
)
def test_few_rows_are_shown_more_often_and_many_less(num_rows: int, epochs: int) -> None:
    assert auto_epochs(num_rows) == epochs


@pytest.mark.parametrize(
    ("num_rows", "batch"), [(0, 1), (10, 1), (59, 1), (60, 2), (240, 8), (959, 16), (960, 32), (10**6, 32)]
)
def test_batches_grow_with_the_data(num_rows: int, batch: int) -> None:
    assert auto_batch_size(num_rows) == batch


def test_larger_batches_take_larger_steps_within_bounds() -> None:
    assert [auto_multiplier(batch) for batch in (1, 4, 16, 64, 256)] == [0.25, 0.5, 1.0, 2.0, 2.0]


def test_what_is_asked_for_is_not_changed() -> None:
    asked = decide(240, n_epochs=7, batch_size=5, learning_rate_multiplier=0.1)
    assert (asked.n_epochs, asked.batch_size, asked.learning_rate_multiplier) == (7, 5, 0.1)
