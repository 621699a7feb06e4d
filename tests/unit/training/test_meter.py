"""The sums of a run, and that they do not depend on the moments at which they were read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from training.feed import Amounts
from training.meter import Meter

ONE = Amounts(num_rows=1, num_tokens=3, num_trained_tokens=1, num_targets=1)


@pytest.fixture(autouse=True)
def one_rank(tmp_path: Path) -> Iterator[None]:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def loss_sum(losses: Sequence[torch.Tensor], read_after: Sequence[int]) -> float:
    meter, total = Meter(torch.device("cpu"), len(losses)), 0.0
    for number, loss in enumerate(losses, 1):
        meter.add(loss, ONE)
        if number in read_after:
            total += meter.read().loss_sum
    return total + meter.read().loss_sum


def test_the_sum_of_losses_does_not_depend_on_when_it_was_read() -> None:
    losses = torch.rand(500, generator=torch.Generator().manual_seed(0)).unbind()
    whole = loss_sum(losses, [])
    for read_after in ([9], [1, 2, 250], range(0, 500, 7)):
        assert loss_sum(losses, read_after) == whole


def test_a_reading_holds_what_came_since_the_one_before() -> None:
    now = 10.0
    meter = Meter(torch.device("cpu"), 1000, clock=lambda: now)
    meter.add(torch.tensor(3.0), Amounts(2, 6, 2, 2))
    now = 12.0
    was_due, first, is_due = meter.is_due, meter.read(), meter.is_due
    assert was_due
    assert not is_due
    assert (first.loss, first.num_tokens, first.num_examples, first.seconds) == (1.5, 6, 2, 2.0)
    assert first.seconds_left(3) == 6.0
    assert meter.read().num_steps == 0


@pytest.mark.parametrize(("total_steps", "points"), [(50, 50), (200, 200), (201, 25)])
def test_a_short_run_tells_every_step_and_a_long_one_about_one_a_second(
    total_steps: int, points: int
) -> None:
    now = 0.0
    meter = Meter(torch.device("cpu"), total_steps, clock=lambda: now)
    told = 0
    for _ in range(total_steps):
        now += 0.125
        meter.add(torch.tensor(1.0), ONE)
        if meter.is_due:
            assert meter.read().num_steps == (1 if total_steps <= 200 else 8)
            told += 1
    assert told == points
