"""The config that serving writes is one that training reads: the only place where both are imported."""

from __future__ import annotations

import pytest

from serving.config import FineTuningConfig
from serving.finetune_config import finetune_config, named
from serving.hyperparameters import Hyperparameters
from training.config import FinetuneConfig


@pytest.mark.parametrize("num_workers", [1, 2, 4])
@pytest.mark.parametrize("batch_size", [1, 7, 16, 127, 256])
def test_training_takes_the_config_with_the_batch_that_was_asked_for(
    batch_size: int, num_workers: int
) -> None:
    config = finetune_config(
        FineTuningConfig(num_workers=num_workers),
        Hyperparameters(3, batch_size, 0.5),
        model="builtin:smollm2",
        training_data="s3://bucket/rows.jsonl",
        validation_data="/data/held-out.jsonl",
        suffix="Ünïcode & more",
        seed=2**31 - 1,
    )
    read = FinetuneConfig.model_validate(named(config, "ftjob-0123456789abcdef01234567"))
    assert read.global_batch_size == batch_size
    assert read.data.path == "s3://bucket/rows.jsonl"
    assert read.learning_rate == pytest.approx(2.5e-4)
    assert read.name == "ftjob-0123456789abcdef01234567"
