from __future__ import annotations

import itertools
import statistics
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.batching import Step, accumulation_steps, plan_epoch, plan_evaluation, window_batches

LENGTHS = st.lists(st.integers(1, 60), min_size=1, max_size=80)
SMALL = st.integers(1, 4)


def plan(
    lengths: list[int], micro: int, accumulation: int, workers: int, seed: int = 0, epoch: int = 0
) -> list[Step]:
    return plan_epoch(
        lengths,
        global_batch_size=micro * accumulation * workers,
        micro_batch_size=micro,
        world_size=workers,
        seed=seed,
        epoch=epoch,
    )


def global_batches(steps: list[Step]) -> list[list[int]]:
    return [sorted(step.row_indices) for step in steps]


@given(LENGTHS, SMALL, SMALL, SMALL, st.integers(0, 3))
def test_an_epoch_holds_each_row_exactly_once(
    lengths: list[int], micro: int, accumulation: int, workers: int, epoch: int
) -> None:
    steps = plan(lengths, micro, accumulation, workers, epoch=epoch)
    assert Counter(index for step in steps for index in step.row_indices) == Counter(range(len(lengths)))
    assert len(steps) == -(-len(lengths) // (micro * accumulation * workers))


@given(LENGTHS, SMALL, SMALL, SMALL)
def test_every_rank_makes_the_same_number_of_forward_passes_of_bounded_size(
    lengths: list[int], micro: int, accumulation: int, workers: int
) -> None:
    for step in plan(lengths, micro, accumulation, workers):
        assert [len(rank) for rank in step.rows] == [accumulation] * workers
        assert all(len(rows) <= micro for rank in step.rows for rows in rank)


@given(LENGTHS, st.integers(0, 5), st.integers(0, 3))
def test_a_global_batch_does_not_depend_on_how_it_is_cut(lengths: list[int], seed: int, epoch: int) -> None:
    whole, accumulated, spread, single = (
        global_batches(plan(lengths, *cut, seed=seed, epoch=epoch))
        for cut in [(8, 1, 1), (2, 4, 1), (2, 2, 2), (1, 1, 8)]
    )
    assert whole == accumulated == spread == single


@given(LENGTHS, SMALL, SMALL, SMALL)
def test_the_work_of_a_step_is_dealt_evenly_over_the_ranks(
    lengths: list[int], micro: int, accumulation: int, workers: int
) -> None:
    for step in plan(lengths, micro, accumulation, workers):
        rows = [sum(len(rows) for rows in rank) for rank in step.rows]
        assert max(rows) - min(rows) <= 1


def test_a_plan_repeats_for_the_same_seed_and_differs_between_epochs_and_seeds() -> None:
    lengths = list(range(1, 101))
    first = plan(lengths, 2, 2, 2)
    assert first == plan(lengths, 2, 2, 2)
    assert first != plan(lengths, 2, 2, 2, epoch=1)
    assert first != plan(lengths, 2, 2, 2, seed=1)


def test_rows_meet_other_rows_in_the_next_epoch() -> None:
    lengths = list(range(1, 801))
    first, second = (
        {tuple(batch) for batch in global_batches(plan(lengths, 2, 2, 2, epoch=epoch))} for epoch in (0, 1)
    )
    assert len(first & second) < 10


@pytest.mark.parametrize("num_batches", [4, 10, 25, 49])
def test_rows_meet_other_rows_in_the_next_epoch_of_a_small_data_set_too(num_batches: int) -> None:
    lengths = [10 + (7 * number) % 41 for number in range(8 * num_batches)]
    first, second = (plan(lengths, 8, 1, 1, epoch=epoch) for epoch in (0, 1))
    pairs = [
        {pair for step in steps for pair in itertools.combinations(sorted(step.row_indices), 2)}
        for steps in (first, second)
    ]
    # Sorted in one window it would be nearly all of them.
    assert len(pairs[0] & pairs[1]) / len(pairs[0]) < 0.25


@pytest.mark.parametrize(("num_batches", "window"), [(1, 1), (3, 1), (4, 1), (20, 5), (199, 49), (1000, 50)])
def test_an_epoch_is_sorted_by_length_in_at_least_four_windows(num_batches: int, window: int) -> None:
    assert window_batches(num_batches) == window


@given(LENGTHS, SMALL, st.integers(1, 12), st.integers(1, 5))
def test_any_number_of_workers_shares_a_global_batch_that_it_does_not_divide(
    lengths: list[int], micro: int, global_batch_size: int, workers: int
) -> None:
    one, many = (
        plan_epoch(
            lengths,
            global_batch_size=global_batch_size,
            micro_batch_size=micro,
            world_size=world_size,
            seed=0,
            epoch=0,
        )
        for world_size in (1, workers)
    )
    assert global_batches(one) == global_batches(many)
    passes = accumulation_steps(global_batch_size, micro, workers)
    assert all(len(rank) == passes for step in many for rank in step.rows)


def test_rows_of_a_batch_are_of_like_length_and_batches_come_in_no_order() -> None:
    lengths = [1 + (n * 37) % 100 for n in range(400)]
    steps = plan(lengths, 8, 1, 1)
    spread = [max(batch) - min(batch) for batch in ([lengths[i] for i in s.row_indices] for s in steps)]
    assert statistics.mean(spread) < 12  # rows taken at random spread over about 80
    means = [statistics.mean(lengths[i] for i in step.row_indices) for step in steps]
    assert means != sorted(means)
    assert means != sorted(means, reverse=True)


@given(LENGTHS, SMALL, SMALL)
def test_evaluation_sees_each_row_once_on_one_rank_longest_first(
    lengths: list[int], batch_size: int, workers: int
) -> None:
    steps = plan_evaluation(lengths, batch_size=batch_size, world_size=workers)
    seen = [index for step in steps for index in step.row_indices]
    assert sorted(seen) == list(range(len(lengths)))
    assert all(len(rank) == 1 for step in steps for rank in step.rows)
    longest = [max(lengths[index] for index in step.row_indices) for step in steps]
    assert longest == sorted(longest, reverse=True)


def test_an_evaluation_of_no_rows_has_no_steps() -> None:
    assert plan_evaluation([], batch_size=2, world_size=2) == []


@pytest.mark.parametrize(("rows", "counts"), [(24, [6, 6]), (11, [4, 4])])
def test_uneven_rows_give_both_ranks_the_same_number_of_forward_passes(rows: int, counts: list[int]) -> None:
    steps = plan([5] * rows, 2, 2, 2)
    assert [sum(len(step.rows[rank]) for step in steps) for rank in range(2)] == counts
