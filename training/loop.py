"""The train loop that runs on every Ray Train worker: a thin shell around pure plans and the engine."""

from __future__ import annotations

import random
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import ray
import ray.train
import torch
import torch.distributed as dist

from cluster.references import resolve_model
from training.batching import Step, plan_epoch, plan_evaluation
from training.config import FinetuneConfig, Precision
from training.engine import Engine
from training.evaluation import Tally, metrics_of
from training.examples import Dataset, Example
from training.export import export_model
from training.modules import build_module, collate, weightless
from training.progress import EpochEvent, NoticeEvent, StepEvent

# Seconds between two step events: often enough to watch, rare enough to cost nothing.
STEP_EVENT_EVERY_S = 1.0


@dataclass(frozen=True)
class LoopInputs:
    """What every worker gets. `dataset` is an object reference, fetched once per node."""

    config: FinetuneConfig
    dataset: Any
    pad_token_id: int
    export_uri: str
    event_log: Any


@dataclass(frozen=True)
class LoopResult:
    """What rank 0 returns: final validation figures and what was trained."""

    precision: Precision
    validation_loss: float
    metrics: dict[str, float]
    trained_tokens: int
    steps: int
    train_seconds: float


def train_loop(inputs: LoopInputs) -> LoopResult:
    """Train, evaluate and checkpoint each epoch, then export. Every rank runs every line, in step."""
    config = inputs.config
    context = ray.train.get_context()
    rank, world_size = context.get_world_rank(), context.get_world_size()
    seed_everything(config.seed)
    precision = choose_precision(config.precision)
    dataset: Dataset = ray.get(inputs.dataset)
    module = build_module(
        config,
        resolve_model(config.model),
        dataset.labels,
        frozen_dtype=torch.bfloat16 if precision is Precision.BF16 else torch.float32,
    )
    lengths = [len(example.input_ids) for example in dataset.train]
    steps_per_epoch = -(-len(lengths) // config.global_batch_size)
    total_steps = steps_per_epoch * config.epochs
    engine = Engine(module, config, precision=precision, total_steps=total_steps, world_size=world_size)
    worker = _Worker(inputs, engine, dataset, rank, world_size, total_steps)
    event = worker.resume()
    started = time.monotonic()
    for epoch in range(event.epoch, config.epochs):
        plan = plan_epoch(
            lengths,
            micro_batch_size=config.batch.micro_batch_size_per_gpu,
            gradient_accumulation_steps=config.batch.gradient_accumulation_steps,
            world_size=world_size,
            seed=config.seed,
            epoch=epoch,
        )
        event = worker.run_epoch(epoch, plan)
        worker.checkpoint(event)
    seconds = time.monotonic() - started
    export_model(engine, module, config, inputs.export_uri, is_writer=rank == 0)
    trained_tokens = sum(example.num_targets for example in dataset.train) * config.epochs
    return LoopResult(precision, event.validation_loss, event.metrics, trained_tokens, total_steps, seconds)


class _Worker:
    """The parts of one rank's loop that share its engine and data."""

    def __init__(
        self,
        inputs: LoopInputs,
        engine: Engine,
        dataset: Dataset,
        rank: int,
        world_size: int,
        total_steps: int,
    ) -> None:
        self._inputs = inputs
        self._config = inputs.config
        self._engine = engine
        self._dataset = dataset
        self._rank = rank
        self._world_size = world_size
        self._total_steps = total_steps
        self._step = 0

    def resume(self) -> EpochEvent:
        """Load the last checkpoint when there is one; returns the last finished epoch, or one numbered 0."""
        checkpoint = ray.train.get_checkpoint()
        if checkpoint is None:
            return EpochEvent(0, 0, 0.0, 0.0)
        with checkpoint.as_directory() as folder:
            # Whole, because a run that was lost in its export has no epoch left to measure anew.
            event = EpochEvent(**self._engine.load(Path(folder))["epoch_event"])
        self._step = event.step
        self._post(NoticeEvent(f"resumed after epoch {event.epoch} (step {self._step})"))
        return event

    def run_epoch(self, epoch: int, plan: list[Step]) -> EpochEvent:
        """One pass over the training rows, and an evaluation."""
        # Dropout draws from a generator seeded per epoch and rank, so that a resumed run repeats it.
        torch.manual_seed(self._config.seed + 1000 * epoch + self._rank)
        meter = _Meter(self._engine.device)
        epoch_loss, epoch_targets = 0.0, 0
        for step in plan:
            examples = [self._dataset.train[index] for index in step.row_indices]
            num_targets = sum(example.num_targets for example in examples)
            loss_sum = self._engine.step(self._micro_batches(step), num_targets)
            self._step += 1
            meter.add(loss_sum, examples, num_targets)
            if meter.is_due(self._step == self._total_steps or step is plan[-1]):
                part_loss, part_targets = self._post_step(meter, epoch)
                epoch_loss, epoch_targets = epoch_loss + part_loss, epoch_targets + part_targets
        validation_loss, metrics = self.evaluate()
        event = EpochEvent(
            epoch + 1, self._step, epoch_loss / max(1, epoch_targets), validation_loss, metrics
        )
        self._post(event)
        return event

    def evaluate(self) -> tuple[float, dict[str, float]]:
        """Loss and metrics on the validation rows; each row counted once, whatever the world size."""
        rows = self._dataset.validation
        plan = plan_evaluation(
            [len(example.input_ids) for example in rows],
            batch_size=2 * self._config.batch.micro_batch_size_per_gpu,
            world_size=self._world_size,
        )
        tally = Tally()
        for step in plan:
            mine = step.rows[self._rank][0]
            examples = [rows[index] for index in mine] or [weightless(rows[step.row_indices[0]])]
            loss_sum, predictions = self._engine.evaluate(self._collate(examples))
            if mine:
                tally.add(loss_sum, predictions, examples)
        parts: list[Tally | None] = [None] * self._world_size
        dist.all_gather_object(parts, tally)
        whole = Tally.merge(part for part in parts if part is not None)
        return whole.loss, metrics_of(self._config.task, whole, len(self._dataset.labels))

    def checkpoint(self, event: EpochEvent) -> None:
        """Save every rank's shard; Ray Train makes the checkpoint visible once all have arrived."""
        with tempfile.TemporaryDirectory() as folder:
            self._engine.save(Path(folder), {"epoch_event": asdict(event)})
            ray.train.report(
                {"validation_loss": event.validation_loss, **event.metrics},
                checkpoint=ray.train.Checkpoint.from_directory(folder),
                checkpoint_dir_name=f"epoch-{event.epoch:04d}",
            )

    def _micro_batches(self, step: Step) -> list[dict[str, torch.Tensor]]:
        spare = weightless(self._dataset.train[step.row_indices[0]])
        return [
            self._collate([self._dataset.train[index] for index in rows] or [spare])
            for rows in step.rows[self._rank]
        ]

    def _collate(self, examples: list[Example]) -> dict[str, torch.Tensor]:
        return collate(examples, self._config.task, self._inputs.pad_token_id)

    def _post_step(self, meter: _Meter, epoch: int) -> tuple[float, int]:
        loss_sum, num_targets, examples_per_s, tokens_per_s = meter.read()
        self._post(
            StepEvent(
                step=self._step,
                total_steps=self._total_steps,
                epoch=epoch + 1,
                loss=loss_sum / max(1, num_targets),
                learning_rate=self._engine.learning_rate,
                grad_norm=self._engine.grad_norm,
                examples_per_s=examples_per_s,
                tokens_per_s=tokens_per_s,
            )
        )
        return loss_sum, num_targets

    def _post(self, event: StepEvent | EpochEvent | NoticeEvent) -> None:
        if self._rank == 0:
            self._inputs.event_log.post.remote(event)


class _Meter:
    """Loss and speed since the last reading. Reading is a collective: all ranks read at the same steps."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._reset()

    def _reset(self) -> None:
        self._loss = torch.zeros((), device=self._device)
        self._targets = self._examples = self._tokens = 0
        self._since = time.monotonic()

    def add(self, loss_sum: torch.Tensor, examples: list[Example], num_targets: int) -> None:
        self._loss += loss_sum
        self._targets += num_targets
        self._examples += len(examples)
        self._tokens += sum(len(example.input_ids) for example in examples)

    def is_due(self, must: bool) -> bool:
        """Whether to read now: rank 0's clock decides for all."""
        due = torch.tensor([must or time.monotonic() - self._since >= STEP_EVENT_EVERY_S])
        if dist.get_world_size() > 1 and not must:
            due = due.to(self._device)
            dist.broadcast(due, src=0)
        return bool(due)

    def read(self) -> tuple[float, int, float, float]:
        """`(loss_sum over all ranks, targets, examples/s, tokens/s)`, and start anew."""
        dist.all_reduce(self._loss)
        elapsed = max(time.monotonic() - self._since, 1e-9)
        reading = (float(self._loss), self._targets, self._examples / elapsed, self._tokens / elapsed)
        self._reset()
        return reading


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch alike on every rank: weights of a new head must be equal on all."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def choose_precision(wanted: Precision) -> Precision:
    """bf16 when it was asked for, or when `auto` and every rank's processor has it."""
    if wanted is not Precision.AUTO:
        return wanted
    has_it = torch.cuda.is_bf16_supported() if torch.cuda.is_available() else _cpu_has_bf16()
    votes: list[bool | None] = [None] * dist.get_world_size()
    dist.all_gather_object(votes, has_it)
    return Precision.BF16 if all(votes) else Precision.FLOAT32


def _cpu_has_bf16() -> bool:
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
