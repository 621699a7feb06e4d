"""Proof before registration: the exported artefact, loaded in a fresh process, equals what training measured."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import Any

import ray

from cluster.cards import Parity
from training.config import FinetuneConfig, Precision, TaskName
from training.examples import Dataset
from training.loop import LoopResult

# Largest accepted difference of any validation figure, by the precision of the forward pass.
TOLERANCE = {Precision.FLOAT32: 1e-3, Precision.BF16: 1e-2}
# Validation conversations whose token ids are compared.
NUM_PROMPTS = 50


@dataclass(frozen=True)
class ParityInputs:
    """What to check against. `conversations` are the messages of all validation rows."""

    config: FinetuneConfig
    dataset: Any
    export_uri: str
    trained: LoopResult
    conversations: list[list[dict[str, Any]]]


def check_parity(inputs: ParityInputs) -> Parity:
    """Reload the export and evaluate it as training did. Runs as a Ray task, where nothing of training is left."""
    dataset: Dataset = ray.get(inputs.dataset)
    mismatch = _first_prompt_mismatch(inputs, dataset)
    if mismatch:
        return Parity(passed=False, max_metric_difference=0.0, detail=mismatch)
    loss, metrics = _evaluate_export(inputs, dataset)
    differences = {"loss": abs(loss - inputs.trained.validation_loss)}
    # Perplexity is e^loss: comparing it too would only widen the tolerance.
    for name in metrics.keys() - {"perplexity"}:
        differences[name] = abs(metrics[name] - inputs.trained.metrics[name])
    worst = max(differences, key=lambda name: differences[name])
    tolerance = TOLERANCE[inputs.trained.precision]
    passed = differences[worst] <= tolerance
    detail = (
        "" if passed else f"{worst} differs by {differences[worst]:.4f} after reloading (limit {tolerance})"
    )
    num_prompts = min(len(dataset.validation), NUM_PROMPTS) if inputs.config.task is TaskName.SFT else 0
    return Parity(
        passed=passed, max_metric_difference=differences[worst], num_prompts=num_prompts, detail=detail
    )


def _first_prompt_mismatch(inputs: ParityInputs, dataset: Dataset) -> str:
    """Render the validation conversations with the exported tokenizer and compare ids with training's."""
    if inputs.config.task is not TaskName.SFT:
        return ""
    from transformers import AutoTokenizer

    from cluster.storage import local_folder
    from training.chat import encode, render
    from training.sft import fits

    tokenizer = AutoTokenizer.from_pretrained(local_folder(inputs.export_uri), local_files_only=True)
    examples = (encode(render(messages, tokenizer), tokenizer) for messages in inputs.conversations)
    # Rows that were left out have no counterpart in the data set.
    kept = (example for example in examples if fits(example, inputs.config.max_length_tokens))
    pairs = islice(zip(kept, dataset.validation, strict=False), NUM_PROMPTS)
    for number, (exported, trained) in enumerate(pairs, 1):
        if exported.input_ids != trained.input_ids:
            return f"validation conversation {number} renders to other token ids with the exported tokenizer"
    return ""


def _evaluate_export(inputs: ParityInputs, dataset: Dataset) -> tuple[float, dict[str, float]]:
    import torch

    from training.batching import plan_evaluation
    from training.evaluation import Tally, metrics_of
    from training.modules import collate, reload_module

    config = inputs.config
    use_bf16 = inputs.trained.precision is Precision.BF16
    module, pad_token_id = reload_module(config, inputs.export_uri, dataset.labels, use_bf16=use_bf16)
    rows = dataset.validation
    tally = Tally()
    plan = plan_evaluation(
        [len(example.input_ids) for example in rows],
        batch_size=2 * config.batch.micro_batch_size_per_gpu,
        world_size=1,
    )
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=use_bf16):
        for step in plan:
            examples = [rows[index] for index in step.row_indices]
            loss_sum, predictions = module(collate(examples, config.task, pad_token_id))
            tally.add(float(loss_sum), predictions.tolist(), examples)
    return tally.loss, metrics_of(config.task, tally, len(dataset.labels))
