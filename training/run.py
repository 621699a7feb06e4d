"""One fine-tuning run, seen from the driver: data, workers, parity, ModelCard."""

from __future__ import annotations

import hashlib
import logging
import secrets
import sys
import threading
import time
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import ray
import ray.train
from ray.train.torch import TorchTrainer

from cluster.cards import ModelCard, ModelKind, Parity, folder_sha256, new_model_id
from cluster.connection import connect
from cluster.errors import HamletError, JobFailed
from cluster.references import resolve_model
from cluster.registry import Registry
from cluster.settings import settings
from cluster.storage import delete_folder, local_folder, storage_uri
from training.classification import prepare_classification
from training.config import FinetuneConfig, TaskName
from training.examples import Dataset
from training.export import exports_adapter
from training.loop import LoopInputs, LoopResult, train_loop
from training.modules import pad_token_id
from training.parity import ParityInputs, check_parity
from training.progress import EventLog, MetricsFile, PlainProgress, watch
from training.sft import prepare_sft
from training.sources import Rows, load_rows
from training.workers import torch_config

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prepared:
    """Everything known before a worker starts."""

    rows: Rows
    dataset: Dataset
    tokenizer: Any


def prepare(config: FinetuneConfig) -> Prepared:
    """Fetch the base model's tokenizer and the data, and tokenise; every input error is raised here."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(resolve_model(config.model), local_files_only=True)
    rows = load_rows(config.data)
    if config.task is TaskName.CLASSIFICATION:
        dataset = prepare_classification(rows, config.data, tokenizer, config.max_length_tokens)
    else:
        dataset = prepare_sft(rows, tokenizer, config.max_length_tokens)
    return Prepared(rows, dataset, tokenizer)


def run(config: FinetuneConfig) -> ModelCard:
    """Train, prove, register. Returns the card; raises a HamletError in one sentence otherwise."""
    started = time.monotonic()
    prepared = prepare(config)
    connect()
    _say(_opening(config, prepared))
    run_name = f"{config.name}-{secrets.token_hex(4)}"
    model_id = new_model_id(config.model, settings().organization, config.output.suffix)
    export_uri = storage_uri("models", model_id.replace(":", "-"))
    event_log = ray.remote(num_cpus=0)(EventLog).remote()
    inputs = LoopInputs(
        config, ray.put(prepared.dataset), pad_token_id(prepared.tokenizer), export_uri, event_log
    )
    result = _train(config, inputs, run_name)
    _say("checking the exported model in a fresh process")
    conversations = [row.columns["messages"] for row in prepared.rows.validation if "messages" in row.columns]
    # Never run twice in one process: a reused worker would not prove a fresh load.
    check = ray.remote(num_cpus=1, max_calls=1)(check_parity)
    parity = ray.get(check.remote(ParityInputs(config, inputs.dataset, export_uri, result, conversations)))
    if not parity.passed:
        delete_folder(export_uri)
        raise JobFailed(f"the model is not registered: {parity.detail}")
    card = _card(config, prepared, result, parity, model_id, export_uri)
    registry = Registry()
    registry.register(card)
    if config.output.alias:
        registry.promote(config.output.alias, card.id)
    _say(_closing(card, config, result, time.monotonic() - started))
    return card


def _train(config: FinetuneConfig, inputs: LoopInputs, run_name: str) -> LoopResult:
    use_gpu = config.scaling.use_gpu
    if use_gpu is None:
        use_gpu = ray.cluster_resources().get("GPU", 0) >= config.scaling.num_workers
    trainer = TorchTrainer(
        train_loop,
        train_loop_config=inputs,
        torch_config=torch_config(),
        scaling_config=ray.train.ScalingConfig(
            num_workers=config.scaling.num_workers,
            use_gpu=use_gpu,
            resources_per_worker={"CPU": config.scaling.cpus_per_worker, **({"GPU": 1} if use_gpu else {})},
        ),
        run_config=ray.train.RunConfig(
            name=run_name,
            storage_path=storage_uri("runs"),
            failure_config=ray.train.FailureConfig(max_failures=config.scaling.max_failures),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=2),
        ),
    )
    sinks = [
        MetricsFile(settings().home_dir / "runs" / run_name / "metrics.jsonl"),
        PlainProgress(config.epochs, sys.stdout),
    ]
    done = threading.Event()
    watcher = threading.Thread(target=watch, args=(inputs.event_log, done.is_set, sinks), daemon=True)
    watcher.start()
    try:
        result = trainer.fit()
    except ray.train.TrainingFailedError as exc:
        raise _explain(exc) from exc
    finally:
        done.set()
        watcher.join(timeout=10)
    value = result.return_value
    if not isinstance(value, LoopResult):
        raise JobFailed(f"the run {run_name} ended without a result; see `ray job logs`")
    return value


def _explain(exc: Exception) -> HamletError:
    """The first worker's own error, with its rank, in place of a page of traces."""
    failures: dict[int, Exception] = getattr(exc, "worker_failures", {})
    for rank, failure in sorted(failures.items()):
        cause = getattr(failure, "cause", None) or failure.__cause__ or failure
        if isinstance(cause, HamletError):
            return cause
        return JobFailed(f"worker {rank} failed: {type(cause).__name__}: {cause}")
    return JobFailed(f"training failed: {exc}")


def _card(
    config: FinetuneConfig,
    prepared: Prepared,
    result: LoopResult,
    parity: Parity,
    model_id: str,
    export_uri: str,
) -> ModelCard:
    template = prepared.tokenizer.chat_template if config.task is TaskName.SFT else None
    adapter = exports_adapter(config)
    return ModelCard(
        id=model_id,
        kind=ModelKind.GENERATOR if config.task is TaskName.SFT else ModelKind.CLASSIFIER,
        base_model=config.model,
        weights_uri=export_uri,
        is_adapter=adapter,
        lora_rank=config.lora.rank if adapter else None,
        chat_template=template,
        chat_template_sha256=hashlib.sha256(template.encode()).hexdigest() if template else None,
        labels=prepared.dataset.labels,
        is_pair=bool(prepared.dataset.train[0].segment_ids),
        max_length_tokens=config.max_length_tokens,
        config_sha256=hashlib.sha256(config.model_dump_json().encode()).hexdigest(),
        data_sha256=prepared.rows.sha256,
        code_version=version("hamlet"),
        metrics={"validation_loss": result.validation_loss, **result.metrics},
        trained_tokens=result.trained_tokens,
        parity=parity,
        file_sha256=folder_sha256(local_folder(export_uri)),
    )


def _opening(config: FinetuneConfig, prepared: Prepared) -> str:
    dataset = prepared.dataset
    workers, epochs = config.scaling.num_workers, config.epochs
    lines = [
        f"{config.task} of {config.model} ({config.method}) on {prepared.rows.description}: "
        f"{len(dataset.train)} training and {len(dataset.validation)} validation rows",
        f"{epochs} epoch{'s'[: epochs != 1]}, global batch {config.global_batch_size}, "
        f"{workers} worker{'s'[: workers != 1]}, DeepSpeed ZeRO stage {config.scaling.zero_stage}",
        *dataset.notices,
    ]
    return "\n".join(lines)


def _closing(card: ModelCard, config: FinetuneConfig, result: LoopResult, seconds: float) -> str:
    name = f"{card.id} (alias {config.output.alias})" if config.output.alias else card.id
    return (
        f"registered {name}\n"
        f"  weights   {card.weights_uri}\n"
        f"  trained   {result.steps} steps in {result.train_seconds:.0f} s ({result.precision}), {seconds:.0f} s in all"
    )


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
