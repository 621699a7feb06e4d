"""Proof before registration: the exported artefact, loaded in a fresh process, equals what training measured."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import ray

from cluster.cards import Parity
from cluster.storage import local_folder
from training.config import FinetuneConfig, Precision, TaskName
from training.examples import Dataset, Example
from training.loop_state import LoopResult
from training.preferences import DPO
from training.row_files import Row
from training.sft import SFT

# Largest accepted difference of the validation loss, by the precision of the forward pass. The loss alone: accuracy, F1
# and correlations count rows on one side or the other, and one that is nearly on the edge may come out on the other
# side in a batch of another width, or with an adapter merged, which is no fault. The loss is made of the same figures.
TOLERANCE = {Precision.FLOAT32: 1e-3, Precision.BF16: 1e-2}
# Validation rows whose token ids are compared.
NUM_PROMPTS = 50


@dataclass(frozen=True)
class ParityInputs:
    """What to check against. `rows` are the columns of the validation rows whose prompts are compared.

    `trained`: what training measured; None where it is not compared with (an epoch's adapter).
    """

    config: FinetuneConfig
    dataset: Any
    export_uri: str
    trained: LoopResult | None
    rows: list[dict[str, Any]]


def prompt_rows(config: FinetuneConfig, rows: Iterable[Row], tokenizer: Any) -> list[dict[str, Any]]:
    """The columns of the first validation rows that became examples, as many as are compared.

    Those alone travel to the process that compares, which may run where the file does not lie.
    """
    if not config.task.is_generative:
        return []
    used = (row.columns for row in rows if _examples_of(config, row.columns, tokenizer))
    return list(islice(used, NUM_PROMPTS))


def check_parity(inputs: ParityInputs) -> Parity:
    """Reload the export and evaluate it as training did. Runs as a Ray task, where nothing of training is left."""
    dataset: Dataset = ray.get(inputs.dataset)
    mismatch = _first_prompt_mismatch(inputs, dataset)
    if mismatch:
        return Parity(passed=False, max_metric_difference=0.0, detail=mismatch)
    trained = inputs.trained
    if trained is None:
        raise ValueError("there is nothing to compare with: parity needs what training measured")
    diverged = divergence({"validation_loss": trained.validation_loss, **trained.metrics})
    if diverged:
        return Parity(passed=False, max_metric_difference=0.0, detail=diverged)
    difference = abs(_loss_of_export(inputs, dataset, trained) - trained.validation_loss)
    tolerance = TOLERANCE[trained.precision]
    passed = difference <= tolerance
    return Parity(
        passed=passed,
        max_metric_difference=difference,
        num_prompts=_num_prompts(inputs, dataset),
        detail="" if passed else f"loss differs by {difference:.4f} after reloading (limit {tolerance})",
    )


def check_adapter(inputs: ParityInputs, dataset: Dataset, metrics: Mapping[str, float]) -> Parity:
    """The proof of an epoch's adapter, cheap enough to give while training goes on. `metrics`: what training measured.

    Proven: its files are complete, every matrix has its partner, the configured rank and only finite
    numbers, and prompts render to the token ids of training. Not proven: its figures, which are those that
    training measured and are not measured again on the reloaded adapter.
    """
    detail = divergence(metrics) or _adapter_fault(inputs) or _first_prompt_mismatch(inputs, dataset)
    return Parity(
        passed=not detail,
        max_metric_difference=0.0,
        num_prompts=_num_prompts(inputs, dataset),
        detail=detail or "weights and prompts checked; figures as training measured them",
    )


def divergence(metrics: Mapping[str, float]) -> str:
    """Which figure of training is no number, and what to do; empty where all are.

    >>> divergence({"validation_loss": 0.7, "accuracy": 1.0})
    ''
    >>> divergence({"validation_loss": float("nan")})
    'training diverged: its validation_loss is nan; lower the learning rate'
    """
    for name, value in metrics.items():
        if not math.isfinite(value):
            return f"training diverged: its {name} is {value}; lower the learning rate"
    return ""


def _adapter_fault(inputs: ParityInputs) -> str:
    from safetensors.torch import load_file

    weights = load_file(local_folder(inputs.export_uri) / "adapter_model.safetensors")
    if not weights:
        return "the adapter holds no weights"
    for name, weight in weights.items():
        if not weight.isfinite().all():
            return f"the adapter's {name} holds numbers that are not finite"
        if ".lora_A." not in name:
            continue
        partner = weights.get(name.replace(".lora_A.", ".lora_B."))
        rank = inputs.config.lora.rank
        if weight.shape[0] != rank or partner is None or partner.shape[1] != rank:
            return f"the adapter's {name} has no partner of rank {rank}"
    return ""


def _num_prompts(inputs: ParityInputs, dataset: Dataset) -> int:
    return min(len(dataset.validation), NUM_PROMPTS) if inputs.config.task.is_generative else 0


def _first_prompt_mismatch(inputs: ParityInputs, dataset: Dataset) -> str:
    """Render the validation rows with the exported tokenizer and compare ids with training's."""
    if not inputs.config.task.is_generative:
        return ""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(local_folder(inputs.export_uri), local_files_only=True)
    examples = (example for row in inputs.rows for example in _examples_of(inputs.config, row, tokenizer))
    pairs = islice(zip(examples, dataset.validation, strict=False), NUM_PROMPTS)
    for number, (exported, trained) in enumerate(pairs, 1):
        if exported.input_ids != trained.input_ids:
            return f"validation row {number} renders to other token ids with the exported tokenizer"
    return ""


def _examples_of(config: FinetuneConfig, columns: dict[str, Any], tokenizer: Any) -> Sequence[Example]:
    """What training made of a row: nothing where it did not fit, several of a long text."""
    coding = DPO if config.task is TaskName.DPO else SFT
    return coding.encode(columns, tokenizer, config.max_length_tokens)


def _loss_of_export(inputs: ParityInputs, dataset: Dataset, trained: LoopResult) -> float:
    import torch

    from training.evaluation import Tally
    from training.feed import Feed
    from training.modules import reload_module

    config = inputs.config
    device = torch.device("cuda" if trained.used_gpu else "cpu")
    module, pad_token_id = reload_module(
        config, inputs.export_uri, dataset.labels, precision=trained.precision, device=device
    )
    tally = Tally()
    is_bf16 = trained.precision is Precision.BF16
    with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=is_bf16):
        for examples, batch in Feed(dataset, config, pad_token_id).validation():
            loss_sum, predictions = module({name: value.to(device) for name, value in batch.items()})
            tally.add(float(loss_sum), predictions.tolist(), examples)
    return tally.loss
