"""In which numbers a run computes: what was asked for, or what every rank's processor has."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist

from training import precision
from training.config import Precision
from training.precision import choose_precision, dtype_of


def can_bf16(monkeypatch: pytest.MonkeyPatch, value: bool) -> None:
    monkeypatch.setattr(precision, "has_bf16", lambda on_gpu: value)


@pytest.mark.parametrize("wanted", [Precision.BF16, Precision.FLOAT32])
def test_what_was_asked_for_is_taken_whatever_the_processor_has(
    wanted: Precision, monkeypatch: pytest.MonkeyPatch
) -> None:
    for has in (False, True):
        can_bf16(monkeypatch, has)
        assert choose_precision(wanted, on_gpu=False) is wanted


@pytest.mark.parametrize(("has", "expected"), [(True, Precision.BF16), (False, Precision.FLOAT32)])
def test_alone_the_own_processor_decides(
    has: bool, expected: Precision, monkeypatch: pytest.MonkeyPatch
) -> None:
    can_bf16(monkeypatch, has)
    assert choose_precision(Precision.AUTO, on_gpu=False) is expected


@pytest.mark.parametrize(
    ("others", "expected"), [([True, True], Precision.BF16), ([True, False], Precision.FLOAT32)]
)
def test_one_rank_without_bf16_decides_for_all(
    others: list[bool], expected: Precision, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gather(votes: list[bool | None], own: bool) -> None:
        votes[:] = [own, *others]

    can_bf16(monkeypatch, True)
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda: 3)
    monkeypatch.setattr(dist, "all_gather_object", gather)
    assert choose_precision(Precision.AUTO, on_gpu=False) is expected


def test_frozen_weights_are_kept_in_what_they_are_computed_in() -> None:
    assert (dtype_of(Precision.BF16), dtype_of(Precision.FLOAT32)) == (torch.bfloat16, torch.float32)
