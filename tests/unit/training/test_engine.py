"""The parts of the engine that need no DeepSpeed; the rest is in tests/integration/training."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from training.config import FinetuneConfig, Precision, Schedule
from training.engine import deepspeed_config, learning_rate_factor, parameter_groups


def config_of(**changes: Any) -> FinetuneConfig:
    values = {"name": "t", "task": "sft", "model": "m", "data": {"path": "rows"}}
    return FinetuneConfig.model_validate(values | changes)


def test_the_batch_equation_holds_in_deepspeeds_words() -> None:
    config = config_of(
        batch={"micro_batch_size_per_gpu": 2, "gradient_accumulation_steps": 4},
        scaling={"num_workers": 3, "zero_stage": 3},
        max_grad_norm=0.5,
    )
    theirs = deepspeed_config(config, Precision.FLOAT32, world_size=3)
    assert theirs["train_micro_batch_size_per_gpu"] == 2
    assert theirs["gradient_accumulation_steps"] == 4
    assert theirs["train_batch_size"] == 24 == config.global_batch_size
    assert theirs["gradient_clipping"] == 0.5
    assert theirs["zero_optimization"]["stage"] == 3


@pytest.mark.parametrize(("precision", "enabled"), [(Precision.BF16, True), (Precision.FLOAT32, False)])
def test_bf16_is_autocast_over_float32_weights(precision: Precision, enabled: bool) -> None:
    theirs = deepspeed_config(config_of(), precision, world_size=1)
    autocast = theirs["torch_autocast"]
    assert (autocast["enabled"], autocast["dtype"]) == (enabled, "bfloat16")
    assert autocast["lower_precision_safe_modules"] == []  # gradients travel in float32
    assert "bf16" not in theirs


def test_linear_decay_after_a_linear_warm_up() -> None:
    factor = learning_rate_factor(Schedule.LINEAR, total_steps=10, warmup_steps=2)
    assert [factor(step) for step in (0, 1, 2, 6, 10, 11)] == [0.0, 0.5, 1.0, 0.5, 0.0, 0.0]


def test_cosine_decay_is_half_way_down_in_the_middle() -> None:
    factor = learning_rate_factor(Schedule.COSINE, total_steps=8, warmup_steps=0)
    assert [factor(step) for step in (0, 4, 8)] == pytest.approx([1.0, 0.5, 0.0])
    assert factor(1) > 1 - 1 / 8  # slower than a line at first


def test_a_constant_rate_only_warms_up() -> None:
    factor = learning_rate_factor(Schedule.CONSTANT, total_steps=4, warmup_steps=2)
    assert [factor(step) for step in range(5)] == [0.0, 0.5, 1.0, 1.0, 1.0]


@pytest.mark.parametrize("schedule", list(Schedule))
def test_a_run_of_one_step_trains_at_the_full_rate(schedule: Schedule) -> None:
    assert learning_rate_factor(schedule, total_steps=1, warmup_steps=0)(0) == 1.0


def test_matrices_decay_and_biases_norms_and_frozen_weights_do_not() -> None:
    module = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 3), nn.LayerNorm(3), nn.Linear(3, 2))
    module[3].requires_grad_(False)
    decayed, undecayed = parameter_groups(module, 0.1)
    assert [tuple(p.shape) for p in decayed["params"]] == [(5, 4), (3, 4)]
    assert [tuple(p.shape) for p in undecayed["params"]] == [(3,), (3,), (3,)]
    assert (decayed["weight_decay"], undecayed["weight_decay"]) == (0.1, 0.0)
    torch.optim.AdamW([decayed, undecayed])


def test_there_is_no_empty_group() -> None:
    assert len(parameter_groups(nn.Linear(2, 2, bias=False), 0.1)) == 1
