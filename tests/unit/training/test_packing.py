from __future__ import annotations

import bisect
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from training.config import TaskName
from training.examples import IGNORE, Dataset, Example, Examples
from training.language_modules import LanguageModule
from training.modules import collate, weightless
from training.packing import join, pack, packed, positions, split

CAPACITY = 40


def test_a_row_is_placed_among_sizes_of_room_and_not_among_all_sequences(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looked_at = []
    bisect_left = bisect.bisect_left

    def counted(places: list[Any], wanted: Any) -> int:
        looked_at.append(len(places))
        return bisect_left(places, wanted)

    monkeypatch.setattr(bisect, "bisect_left", counted)
    sequences = pack([CAPACITY - 5] * 1000 + [3] * 1000, CAPACITY)
    assert sequences[0] == [0, 1000]
    assert max(looked_at) <= CAPACITY + 1


def rows_of(lengths: list[int]) -> list[Example]:
    draw = torch.Generator().manual_seed(1)
    rows = []
    for length in lengths:
        ids = torch.randint(8, 290, (length,), generator=draw).tolist()
        answer = max(1, length // 2)
        rows.append(Example(ids, [IGNORE] * (length - answer) + ids[-answer:], []))
    return rows


@given(st.lists(st.integers(1, CAPACITY), max_size=60))
def test_every_row_is_packed_once_and_no_sequence_is_too_long(lengths: list[int]) -> None:
    sequences = pack(lengths, CAPACITY)
    assert sorted(row for sequence in sequences for row in sequence) == list(range(len(lengths)))
    assert all(0 < sum(lengths[row] for row in sequence) <= CAPACITY for sequence in sequences)
    # No two sequences could have been one.
    sizes = sorted(sum(lengths[row] for row in sequence) for sequence in sequences)
    assert len(sizes) < 2 or sizes[0] + sizes[1] > CAPACITY


def test_a_packed_sequence_splits_into_the_rows_it_was_made_of() -> None:
    rows = rows_of([5, 1, 7])
    sequence = join(rows)
    assert Examples.of([sequence]).num_segments.tolist() == [3]
    assert [row.input_ids for row in split(sequence)] == [row.input_ids for row in rows]
    assert [row.labels[1:] for row in split(sequence)] == [row.labels[1:] for row in rows]


def test_the_first_token_of_a_row_is_not_predicted_from_the_row_before() -> None:
    text = Example([8, 9, 10], [8, 9, 10], [])
    assert join([text, text]).labels == [IGNORE, 9, 10, IGNORE, 9, 10]


def test_packing_leaves_validation_alone_and_says_what_it_did() -> None:
    rows = rows_of([10] * 8)
    dataset = packed(Dataset(Examples.of(rows), Examples.of(rows), (), ("before",)), CAPACITY)
    assert len(dataset.train) == 2
    assert list(dataset.validation) == rows
    assert dataset.notices == ("before", "8 training rows are packed into 2 sequences of up to 40 tokens")


def test_positions_begin_anew_with_rows_of_one_token_and_with_the_padding() -> None:
    assert positions([0, 1, 2, 2], width=6) == [0, 0, 0, 1, 0, 1]


def gradients(module: LanguageModule, batches: list[dict[str, Tensor]]) -> tuple[float, dict[str, Tensor]]:
    module.zero_grad()
    total = torch.zeros(())
    for batch in batches:
        loss_sum, _ = module(batch)
        loss_sum.backward()
        total += loss_sum.detach()
    return float(total), {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("lengths", [[9, 14, 5, 3], [12], [1, 2, 1, 20], [20, 19, 4, 4, 4]])
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_loss_and_gradients_are_those_of_the_rows_alone(
    tiny_llama: Callable[..., Any], lengths: list[int], implementation: str
) -> None:
    module = LanguageModule(tiny_llama(attn_implementation=implementation))
    rows = rows_of(lengths)
    sequences = packed(Dataset(Examples.of(rows), Examples.of([])), CAPACITY).train
    alone = gradients(module, [collate([row], TaskName.SFT, 0) for row in rows])
    together = gradients(module, [collate(sequences, TaskName.SFT, 0)])
    assert together[0] == pytest.approx(alone[0], rel=1e-4, abs=1e-5)
    assert together[1].keys() == alone[1].keys()
    for name, gradient in alone[1].items():
        torch.testing.assert_close(together[1][name], gradient, rtol=1e-4, atol=1e-5)


def test_a_row_in_a_pack_does_not_feel_what_its_neighbour_says(tiny_llama: Callable[..., Any]) -> None:
    module = LanguageModule(tiny_llama())
    first, second, other = rows_of([9, 14, 9])
    mine = []
    with torch.no_grad():
        for neighbour in (first, other):
            batch = collate([join([weightless(neighbour), second])], TaskName.SFT, 0)
            mine.append(float(module(batch)[0]))
    assert mine[0] == pytest.approx(mine[1], rel=1e-5)
