"""What a rank is told of a step that all ranks take together."""

from __future__ import annotations

from typing import Any

import pytest

from training.config import FinetuneConfig
from training.examples import IGNORE, Dataset, Example, Examples, Preference
from training.feed import Amounts, Feed
from training.packing import join

ROWS = [Example([1] * n, [IGNORE, *[1] * (n - 1)], []) for n in (2, 3, 4)]


def amounts_of(rows: list[Any], rank: int, **changes: Any) -> Amounts:
    """Of the one step of an epoch, on one of two ranks."""
    values: dict[str, Any] = {"name": "t", "task": "sft", "model": "m", "data": {"path": "rows"}}
    config = FinetuneConfig.model_validate(values | {"scaling": {"num_workers": 2}} | changes)
    examples = Examples.of(rows)
    feed = Feed(Dataset(examples, examples), config, 0, rank=rank, world_size=2)
    (step,) = feed.plan(epoch=0)
    return feed.amounts(step)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_step_is_counted_over_all_ranks_on_each(rank: int) -> None:
    assert amounts_of(ROWS, rank) == Amounts(num_rows=3, num_tokens=9, num_trained_tokens=6, num_targets=6)


def test_rows_of_a_packed_sequence_count_each() -> None:
    packed = [join(ROWS[:2]), join(ROWS[2:])]
    assert amounts_of(packed, 0, packing=True) == Amounts(3, 9, 6, 6)


def test_a_preference_is_one_row_and_one_target() -> None:
    pair = join(ROWS[:2])
    row = Preference(pair.input_ids, pair.labels, pair.segment_ids)
    assert amounts_of([row, row], 0, task="dpo", method="lora") == Amounts(2, 10, 6, 2)
