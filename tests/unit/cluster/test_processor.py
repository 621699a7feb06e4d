"""What a machine computes with, and which numbers it multiplies itself, told by what it says of itself."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from cluster.processor import has_bf16, has_gpu, num_cores, num_threads


@pytest.mark.parametrize(
    ("instructions", "expected"),
    [
        ({"avx512_f": True, "avx512_bf16": False, "amx_bf16": False}, False),  # torch would emulate it
        ({"avx512_f": True, "avx512_bf16": True, "amx_bf16": False}, True),
        ({"avx512_f": True, "amx_bf16": True}, True),
        ({"architecture": "arm64", "neon": True, "bf16": True}, True),
        ({"architecture": "arm64", "neon": True}, False),
    ],
)
def test_bf16_is_had_where_there_are_instructions_for_it(
    instructions: dict[str, object], expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: instructions)
    assert has_bf16(on_gpu=False) is expected


def test_a_gpu_that_emulates_bf16_does_not_have_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    assert not has_bf16(on_gpu=True)


@pytest.mark.parametrize(("value", "expected"), [("3", 3), ("0", None), ("all", None), (None, None)])
def test_threads_are_as_many_as_the_variable_says_or_as_there_are_cores(
    value: str | None, expected: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if value is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", value)
    assert num_threads() == (expected or num_cores())


def test_without_a_driver_there_is_no_gpu_and_torch_is_not_asked(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    driver = tmp_path / "nvidiactl"
    monkeypatch.setattr("cluster.processor.GPU_DRIVERS", (driver,))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert not has_gpu()
    driver.touch()
    assert has_gpu()
