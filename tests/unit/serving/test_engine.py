"""The type of the weights that a generator loads."""

from __future__ import annotations

import pytest

from serving import engine
from serving.engine import weights_dtype


@pytest.mark.parametrize(
    ("has_bf16", "on_gpu", "expected"),
    [
        (True, False, "bfloat16"),
        (True, True, "bfloat16"),
        (False, False, "float32"),
        (False, True, "float16"),
    ],
)
def test_auto_takes_what_the_machine_multiplies_itself(
    has_bf16: bool, on_gpu: bool, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "has_bf16", lambda on_gpu: has_bf16)
    assert weights_dtype("auto", on_gpu) == expected
    assert weights_dtype("bfloat16", on_gpu) == "bfloat16"
