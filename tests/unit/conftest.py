"""What all unit tests share.

They keep their files in memory where the machine allows it: hundreds of small databases sync to no disk.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from cluster.cards import ModelCard, ModelKind, Parity

SHARED_MEMORY = Path("/dev/shm")

if os.access(SHARED_MEMORY, os.W_OK):
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(SHARED_MEMORY))


@pytest.fixture
def make_card() -> Callable[..., ModelCard]:
    """Makes a valid card; keyword arguments replace its fields."""

    def make(**changes: object) -> ModelCard:
        fields: dict[str, object] = {
            "id": "ft:minilm:hamlet:mrpc:1",
            "kind": ModelKind.CLASSIFIER,
            "base_model": "builtin:minilm",
            "weights_uri": "/nowhere",
            "max_length_tokens": 128,
            "config_sha256": "c",
            "data_sha256": "d",
            "code_version": "1",
            "parity": Parity(passed=True, max_metric_difference=0.0),
        }
        return ModelCard.model_validate(fields | changes)

    return make
