"""`python -m training plan`: what a run will take, before it is started, and what it took, after it has ended."""

from __future__ import annotations

import heapq
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from cluster.references import resolve_model
from cluster.settings import settings
from training.config import FinetuneConfig, Method, Precision, TaskName
from training.cost import hosted_cost, worker_hours
from training.examples import Dataset
from training.memory import BF16, FLOAT32, Memory, ModelShape, activation_memory, read_shape, state_memory
from training.prepare import Prepared, pinned, prepare

ZERO_STAGES = (0, 1, 2, 3)


@dataclass(frozen=True)
class Prices:
    """What is paid; None leaves that cost out."""

    per_worker_hour: float | None = None
    input_per_1k_tokens: float | None = None
    training_per_1k_tokens: float | None = None


@dataclass(frozen=True)
class Amount:
    """How much is trained. `tokens` are those of all passes, `trained_tokens` those that carry loss."""

    rows: int
    validation_rows: int
    tokens_per_epoch: int
    epochs: float
    tokens: int
    trained_tokens: int
    steps_per_epoch: int
    steps: int


def make_plan(config: FinetuneConfig, prices: Prices, *, with_probe: bool) -> dict[str, Any]:
    """The plan of a run as one JSON object; its keys are described in docs/training.md.

    Raises what the run itself would: every fault of config, data or model.
    """
    config = pinned(config)
    prepared = prepare(config)
    amount = count(prepared.dataset, config)
    probed = _probe(config, prepared) if with_probe else None
    # Without a probe nobody has asked the processor; nearly all that train have bf16.
    precision = probed["precision"] if probed else config.precision
    is_bf16 = precision in (Precision.AUTO, Precision.BF16)
    seconds = amount.tokens / config.scaling.num_workers / probed["tokens_per_s"] if probed else None
    return {
        "name": config.name,
        "task": config.task,
        "model": config.model,
        "method": config.method,
        "num_workers": config.scaling.num_workers,
        "global_batch_size": config.global_batch_size,
        **asdict(amount),
        "memory": memory_plan(
            config, prepared.dataset, read_shape(resolve_model(config.model)), is_bf16=is_bf16
        ),
        "probe": probed,
        "train_seconds": round(seconds, 1) if seconds is not None else None,
        "cost": _costs(amount, seconds, config.scaling.num_workers, prices),
        "measured": measured_values(config),
        "notices": [*prepared.dataset.notices, *_limits_of_the_probe(config, probed)],
    }


def _limits_of_the_probe(config: FinetuneConfig, probed: dict[str, Any] | None) -> list[str]:
    num_workers = config.scaling.num_workers
    if probed is None or num_workers == 1:
        return []
    return [
        "time in steps is a lower bound: the probe is one worker alone; the gradients that "
        f"{num_workers} workers exchange at every step come on top"
    ]


def count(dataset: Dataset, config: FinetuneConfig) -> Amount:
    """Rows, tokens and steps of a run. Pure."""
    per_epoch = sum(dataset.train.lengths)
    steps_per_epoch = config.steps_per_epoch(len(dataset.train))
    steps = config.total_steps(len(dataset.train))
    epochs = steps / steps_per_epoch
    return Amount(
        rows=len(dataset.train),
        validation_rows=len(dataset.validation),
        tokens_per_epoch=per_epoch,
        epochs=epochs,
        tokens=round(per_epoch * epochs),
        trained_tokens=round(int(dataset.train.num_trained_tokens.sum()) * epochs),
        steps_per_epoch=steps_per_epoch,
        steps=steps,
    )


def memory_plan(
    config: FinetuneConfig, dataset: Dataset, shape: ModelShape, *, is_bf16: bool
) -> dict[str, Any]:
    """Bytes of each worker by ZeRO stage, with the configured method and the others of its task. Pure."""
    methods = {}
    for method in config.task.methods:
        estimates = {
            str(stage): estimate_memory(config, dataset, shape, method, stage, is_bf16=is_bf16).to_json()
            for stage in ZERO_STAGES
            if not (method is Method.QLORA and stage == 3)  # not offered: see FinetuneConfig
        }
        methods[str(method)] = estimates
    mine = methods[config.method][str(config.scaling.zero_stage)]
    return {
        "parameters": shape.num_parameters,
        "trained_parameters": _num_trained(config, shape, config.method),
        "zero_stage": config.scaling.zero_stage,
        "worker_bytes": mine["total"],
        "by_method_and_stage": methods,
    }


def estimate_memory(
    config: FinetuneConfig,
    dataset: Dataset,
    shape: ModelShape,
    method: Method,
    zero_stage: int,
    *,
    is_bf16: bool,
) -> Memory:
    """The peak of one worker: states by stage, activations of its largest micro-batch. Pure."""
    num_trained = _num_trained(config, shape, method)
    num_frozen = shape.num_parameters if method.trains_adapter else 0
    value_bytes = BF16 if is_bf16 else FLOAT32
    weights, gradients, optimizer = state_memory(
        num_frozen,
        num_trained,
        zero_stage=zero_stage,
        num_workers=config.scaling.num_workers,
        frozen_bytes=shape.frozen_bytes_in_4bit(value_bytes) if method is Method.QLORA else value_bytes,
    )
    # Batches hold rows of like length: the longest ones come together.
    lengths = dataset.train.lengths
    longest = heapq.nlargest(config.batch.micro_batch_size_per_gpu, range(len(lengths)), lengths.__getitem__)
    batch = [dataset.train[index] for index in longest]
    activations = activation_memory(
        shape,
        tokens=len(batch) * len(batch[0].input_ids),
        targets=sum(example.num_trained_tokens for example in batch),
        value_bytes=value_bytes,
        has_vocabulary_head=config.task.is_generative or config.task is TaskName.MLM,
        keeps_layers=not config.gradient_checkpointing,
    )
    return Memory(round(weights), round(gradients), round(optimizer), activations)


def measured_values(config: FinetuneConfig) -> dict[str, Any] | None:
    """What the newest finished run of the same resolved config took, with its name; None before one has ended."""
    wanted = config.model_dump(mode="json")
    files = sorted(
        (settings().home_dir / "runs").glob("*/measured.json"), key=lambda file: file.stat().st_mtime
    )
    for file in reversed(files):
        if _read_yaml(file.with_name("config.yaml")) == wanted:
            return {"run": file.parent.name, **json.loads(file.read_text(encoding="utf-8"))}
    return None


def _num_trained(config: FinetuneConfig, shape: ModelShape, method: Method) -> int:
    return shape.adapter_parameters(config.lora.rank) if method.trains_adapter else shape.num_parameters


def _probe(config: FinetuneConfig, prepared: Prepared) -> dict[str, Any]:
    # Late: it imports torch, which a plan without a probe does not need.
    from training.probe import probe

    probed = probe(config, prepared)
    return {
        "micro_batches": probed.num_micro_batches,
        "tokens_per_s": round(probed.tokens_per_s, 1),
        "precision": probed.precision,
        "peak_memory_bytes": probed.peak_memory_bytes,
    }


def _costs(amount: Amount, seconds: float | None, num_workers: int, prices: Prices) -> dict[str, Any]:
    costs: dict[str, Any] = {"worker_hours": None, "workers": None, "hosted": None}
    if seconds is not None:
        hours = worker_hours(seconds, num_workers)
        costs["worker_hours"] = round(hours, 4)
        if prices.per_worker_hour is not None:
            costs["workers"] = round(hours * prices.per_worker_hour, 4)
    if prices.input_per_1k_tokens is not None and prices.training_per_1k_tokens is not None:
        hosted = hosted_cost(
            amount.tokens_per_epoch,
            amount.epochs,
            input_price_per_1k=prices.input_per_1k_tokens,
            training_price_per_1k=prices.training_per_1k_tokens,
        )
        costs["hosted"] = {**asdict(hosted), "total": hosted.total}
    return costs


def _read_yaml(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else None
