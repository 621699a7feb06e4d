"""From a job's request to the config that training runs: a plain dict with the keys of its YAML files."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from serving.config import FineTuningConfig
from serving.hyperparameters import Hyperparameters

DEFAULT_SUFFIX = "tuned"
LONGEST_SUFFIX = 40


def finetune_config(
    defaults: FineTuningConfig,
    chosen: Hyperparameters,
    *,
    model: str,
    training_data: str,
    validation_data: str | None,
    suffix: str | None,
    seed: int,
) -> dict[str, Any]:
    """One LoRA run, of preferences when there is a beta. Data are paths or URIs."""
    is_dpo = chosen.beta is not None
    learning_rate = defaults.dpo_learning_rate if is_dpo else defaults.learning_rate
    data = {"path": training_data, **({"validation_path": validation_data} if validation_data else {})}
    return {
        "name": "fine-tuning-job",
        "task": "dpo" if is_dpo else "sft",
        "model": model,
        "method": "lora",
        "data": data,
        "epochs": chosen.n_epochs,
        "learning_rate": min(learning_rate * chosen.learning_rate_multiplier, 1.0),
        "warmup_share": 0.05,
        "max_length_tokens": defaults.max_length_tokens,
        "seed": seed,
        "lora": {"rank": defaults.lora_rank},
        **({"dpo": {"beta": chosen.beta}} if is_dpo else {}),
        "output": {"suffix": model_suffix(suffix)},
        **_cut(chosen.batch_size, defaults),
    }


def _cut(batch_size: int, defaults: FineTuningConfig) -> dict[str, Any]:
    """The global batch over as many workers, and in as large micro batches, as divide it."""
    num_workers = _largest_divisor(batch_size, defaults.num_workers)
    rows_per_worker = batch_size // num_workers
    micro = _largest_divisor(rows_per_worker, defaults.micro_batch_size_per_gpu)
    return {
        "batch": {
            "micro_batch_size_per_gpu": micro,
            "gradient_accumulation_steps": rows_per_worker // micro,
        },
        "scaling": {
            "num_workers": num_workers,
            "cpus_per_worker": defaults.cpus_per_worker,
            "zero_stage": 0 if num_workers == 1 else 1,
        },
    }


def _largest_divisor(number: int, most: int) -> int:
    return next(divisor for divisor in range(min(number, most), 0, -1) if number % divisor == 0)


def model_suffix(asked: str | None) -> str:
    """A suffix as it can stand in a model's name.

    >>> model_suffix("My Model_v2"), model_suffix(None), model_suffix("…")
    ('my-model-v2', 'tuned', 'tuned')
    """
    plain = re.sub(r"[^a-z0-9]+", "-", (asked or "").lower()).strip("-")
    return plain[:LONGEST_SUFFIX].rstrip("-") or DEFAULT_SUFFIX


def named(config: Mapping[str, Any], job_id: str) -> dict[str, Any]:
    """The config under the name of its job, which names its folder: a second attempt finds it again."""
    return {**config, "name": job_id}
