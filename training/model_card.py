"""The ModelCard of a finished run, and the README that says the same to a person."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from cluster.cards import ModelCard, ModelKind, Parity, folder_sha256
from cluster.storage import local_folder
from training.class_report import report_text
from training.config import FinetuneConfig, TaskName
from training.loop_state import LoopResult
from training.prepare import Prepared

KINDS = {
    TaskName.SFT: ModelKind.GENERATOR,
    TaskName.DPO: ModelKind.GENERATOR,
    TaskName.CLASSIFICATION: ModelKind.CLASSIFIER,
    TaskName.EMBEDDING: ModelKind.EMBEDDER,
    TaskName.MLM: ModelKind.BASE,
}

README = """# {id}

Fine-tuned from `{base}` ({task}, {method}) on {data}: {num_train} training and {num_validation} validation rows.

| | |
|---|---|
{figures}

Registered after its export was loaded in a fresh process and gave the same validation loss
(difference {difference:.2g}). Settings are in `config.yaml`, versions and machine in `environment.json`,
every step in `metrics.jsonl`. The SHA-256 of the training data begins with `{data_sha256:.16}`.
{classes}{plots}
"""


def make_card(
    config: FinetuneConfig,
    prepared: Prepared,
    *,
    model_id: str,
    weights_uri: str,
    metrics: dict[str, float],
    trained_tokens: int,
    parity: Parity,
) -> ModelCard:
    """The card of the model exported at `weights_uri`."""
    template = prepared.tokenizer.chat_template if config.task.is_generative else None
    adapter = config.exports_adapter
    return ModelCard(
        id=model_id,
        kind=KINDS[config.task],
        base_model=config.model,
        base_revision=prepared.base_revision,
        weights_uri=weights_uri,
        is_adapter=adapter,
        lora_rank=config.lora.rank if adapter else None,
        chat_template=template,
        chat_template_sha256=hashlib.sha256(template.encode()).hexdigest() if template else None,
        labels=prepared.dataset.labels,
        is_pair=config.task is TaskName.CLASSIFICATION and bool(prepared.dataset.train[0].segment_ids),
        max_length_tokens=config.max_length_tokens,
        config_sha256=hashlib.sha256(config.model_dump_json().encode()).hexdigest(),
        data_sha256=prepared.rows.census.sha256,
        code_version=version("hamlet"),
        metrics=metrics,
        trained_tokens=trained_tokens,
        parity=parity,
        file_sha256=folder_sha256(local_folder(weights_uri)),
    )


def measured(result: LoopResult) -> dict[str, Any]:
    """What a run took, as `measured.json` holds it."""
    names = (
        "steps",
        "train_seconds",
        "peak_memory_bytes",
        "trained_tokens",
        "examples_per_s",
        "tokens_per_s",
        "world_size",
        "used_gpu",
        "precision",
    )
    return {name: getattr(result, name) for name in names}


def readme(
    card: ModelCard, config: FinetuneConfig, prepared: Prepared, result: LoopResult, plots: Sequence[str]
) -> str:
    """The run folder's README.md: what the model is, how good, how it was made."""
    figures = {
        **{name.replace("_", " "): f"{value:.4f}" for name, value in card.metrics.items()},
        "steps": f"{result.steps}",
        "trained tokens": f"{result.trained_tokens:,}",
        "time in steps": f"{result.train_seconds:.0f} s with {result.world_size} workers ({result.precision})",
        "throughput": f"{result.examples_per_s:.1f} examples/s, {result.tokens_per_s:.0f} tokens/s",
        "peak memory of a worker": f"{result.peak_memory_bytes / 2**30:.2f} GiB",
        "weights": f"`{card.weights_uri}`",
    }
    return README.format(
        id=card.id,
        base=config.model,
        task=config.task,
        method=config.method,
        data=prepared.rows.description,
        num_train=prepared.rows.census.num_train,
        num_validation=prepared.rows.census.num_validation,
        figures="\n".join(f"| {name} | {value} |" for name, value in figures.items()),
        difference=card.parity.max_metric_difference,
        data_sha256=card.data_sha256,
        classes=f"\n{report_text(result.confusion, card.labels)}\n" if card.labels else "",
        plots="".join(f"\n![{name.removesuffix('.svg').replace('_', ' ')}]({name})" for name in plots),
    )
