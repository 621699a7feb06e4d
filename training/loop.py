"""The train loop that runs on every Ray Train worker: a thin shell around pure plans and the engine."""

from __future__ import annotations

import tempfile
from dataclasses import asdict, replace
from pathlib import Path

import ray
import ray.train
import torch
import torch.distributed as dist
from ray.train import CheckpointUploadMode

from cluster.errors import JobFailed
from cluster.references import resolve_model
from cluster.storage import folder_exists
from training.allocator import keep_freed_memory
from training.batching import Step
from training.checkpoints import folder_name, wait_for_step
from training.class_report import confusion_of
from training.config import Precision
from training.engine import Engine
from training.evaluation import Tally, metrics_of
from training.examples import Dataset
from training.export import export_model
from training.feed import Feed
from training.heartbeat import Heartbeat
from training.loop_state import CHECKPOINT_SCORE, LoopInputs, LoopResult, Progress
from training.meter import Meter, agree, peak_memory_bytes
from training.modules import build_module
from training.packing import split
from training.precision import choose_precision, dtype_of
from training.progress import AdapterEvent, EpochEvent, Event, NoticeEvent, StepEvent
from training.seeds import seed_everything, step_seed


def train_loop(inputs: LoopInputs) -> LoopResult:
    """Train, evaluate and checkpoint each epoch, then export. Every rank runs every line, in step."""
    keep_freed_memory()
    rank = ray.train.get_context().get_world_rank()
    with Heartbeat(inputs.event_log, rank) as heartbeat:
        worker = _Worker(inputs, heartbeat)
        worker.check_packing()
        worker.resume()
        while not worker.is_finished:
            if not worker.run_epoch():
                return worker.result(is_paused=True)
        worker.keep_best()
        result = worker.result()
        if inputs.export_uri is not None:
            worker.export(inputs.export_uri)  # last: no rank waits in a collective for the one that uploads
        return result


class _Worker:
    """One rank's loop: its engine, its data and how far it is."""

    def __init__(self, inputs: LoopInputs, heartbeat: Heartbeat) -> None:
        config = inputs.config
        context = ray.train.get_context()
        self._inputs, self._config, self._heartbeat = inputs, config, heartbeat
        self._rank, self._world_size = context.get_world_rank(), context.get_world_size()
        seed_everything(config.seed)
        self._precision = choose_precision(config.precision, on_gpu=torch.cuda.is_available())
        self._dataset: Dataset = ray.get(inputs.dataset)
        self._module = build_module(
            config,
            resolve_model(config.model),
            self._dataset.labels,
            frozen_dtype=dtype_of(self._precision),
        )
        self._feed = Feed(
            self._dataset, config, inputs.pad_token_id, rank=self._rank, world_size=self._world_size
        )
        self._steps_per_epoch = config.steps_per_epoch(len(self._dataset.train))
        self._total_steps = config.total_steps(len(self._dataset.train))
        self._engine = Engine(
            self._module,
            config,
            precision=self._precision,
            total_steps=self._total_steps,
            world_size=self._world_size,
        )
        self._progress = Progress()

    def check_packing(self) -> None:
        """Refuse a model whose attention does not keep packed rows apart: it would train on a mixture.

        One sequence against its rows one by one, before anything is trained. Raises JobFailed.
        """
        if not self._config.packing:
            return
        train = self._dataset.train
        sequence = train[int(train.num_segments.argmax())]
        whole, _ = self._engine.evaluate(self._feed.collate([sequence]))
        alone = sum(self._engine.evaluate(self._feed.collate([row]))[0] for row in split(sequence))
        # In bfloat16 a product over other widths is rounded otherwise.
        limit = 0.02 if self._precision is Precision.BF16 else 1e-3
        if abs(whole - alone) > limit * max(abs(alone), 1e-6):
            raise JobFailed(
                f"{self._config.model} cannot be trained with packing: its rows see each other (loss "
                f"{whole:.4f} together, {alone:.4f} apart); use packing=false"
            )

    def resume(self) -> None:
        """Load the newest checkpoint: of this attempt after a restart, else the one the driver found."""
        checkpoint = ray.train.get_checkpoint()
        uri = self._inputs.resume_uri
        if checkpoint is None and uri is not None:
            checkpoint = ray.train.Checkpoint(uri)
        num_starts = ray.get(self._inputs.event_log.start.remote()) if self._rank == 0 else 0
        if checkpoint is not None:
            self._load(checkpoint)
            last = self._progress.last_epoch.epoch
            self._post(NoticeEvent(f"resumed after epoch {last} (step {self._progress.step})"))
        elif num_starts:
            self._post(NoticeEvent("restarted from the beginning: there was no checkpoint yet", level="warn"))

    @property
    def is_finished(self) -> bool:
        patience = self._config.early_stopping_patience
        if patience is not None and self._progress.epochs_without_improvement >= patience:
            return True
        # Not by steps alone: a checkpoint within the last epoch has its evaluation still ahead.
        return self._progress.last_epoch.step >= self._total_steps

    def run_epoch(self) -> bool:
        """The steps that are left of an epoch, its evaluation and checkpoint; False when asked to pause."""
        epoch = self._progress.last_epoch.epoch
        first = epoch * self._steps_per_epoch
        meter = Meter(self._engine.device, self._total_steps)
        for step in self._feed.plan(epoch)[self._progress.step - first : self._total_steps - first]:
            self._run_step(step, meter)
            is_last = self._progress.step in (first + self._steps_per_epoch, self._total_steps)
            is_due, should_pause = agree([meter.is_due, self._heartbeat.should_pause], self._engine.device)
            is_saving = not is_last and (should_pause or self._is_save_due())
            if is_due or is_last or is_saving:  # a checkpoint holds what was counted up to it
                self._read(meter, epoch)
            if is_saving:
                self._checkpoint()
            if not is_last and should_pause:
                return False
        self._end_epoch(epoch)
        return self.is_finished or not agree([self._heartbeat.should_pause], self._engine.device)[0]

    def keep_best(self) -> None:
        """With early stopping: go back to the epoch of lowest validation loss before exporting."""
        best = self._progress.best_epoch
        if self._config.early_stopping_patience is None or best is None:
            return
        if best.step != self._progress.step:
            self._post(NoticeEvent(f"epoch {best.epoch} was the best; its weights are kept"))
            progress = self._progress
            self._load(ray.train.Checkpoint(wait_for_step(self._inputs.run_uri, best.step)))
            self._progress = replace(progress, last_epoch=best)

    def export(self, uri: str) -> None:
        self._heartbeat.at(self._progress.step, "saving")
        export_model(self._engine, self._module, self._config, uri, is_writer=self._rank == 0)

    def result(self, is_paused: bool = False) -> LoopResult:
        progress = self._progress
        seconds = max(progress.step_seconds, 1e-9)
        return LoopResult(
            self._precision,
            progress.last_epoch.validation_loss,
            progress.last_epoch.metrics,
            progress.trained_tokens,
            progress.step,
            progress.step_seconds,
            confusion=progress.last_epoch.confusion,
            examples_per_s=progress.num_examples / seconds,
            tokens_per_s=progress.num_tokens / seconds,
            peak_memory_bytes=peak_memory_bytes(self._engine.device),
            world_size=self._world_size,
            used_gpu=self._engine.device.type == "cuda",
            is_paused=is_paused,
        )

    def _run_step(self, step: Step, meter: Meter) -> None:
        number = self._progress.step
        self._heartbeat.at(number, "reading rows")
        # Dropout draws from a generator seeded by step and rank, so that a resumed run repeats it.
        torch.manual_seed(step_seed(self._config.seed, number, self._rank))
        amounts = self._feed.amounts(step)
        loss_sum = self._engine.step(
            self._feed.micro_batches(step),
            amounts.num_targets,
            lambda phase: self._heartbeat.at(number, phase),
        )
        meter.add(loss_sum, amounts)
        self._progress = replace(self._progress, step=number + 1)

    def _read(self, meter: Meter, epoch: int) -> None:
        """Add up what the meter holds, and tell it."""
        reading, before = meter.read(), self._progress
        self._progress = replace(
            before,
            epoch_loss_sum=before.epoch_loss_sum + reading.loss_sum,
            epoch_targets=before.epoch_targets + reading.num_targets,
            trained_tokens=before.trained_tokens + reading.num_trained_tokens,
            num_examples=before.num_examples + reading.num_examples,
            num_tokens=before.num_tokens + reading.num_tokens,
            step_seconds=before.step_seconds + reading.seconds,
        )
        self._post(
            StepEvent(
                step=before.step,
                total_steps=self._total_steps,
                epoch=epoch + 1,
                loss=reading.loss,
                learning_rate=self._engine.learning_rate,
                grad_norm=self._engine.grad_norm,
                examples_per_s=reading.num_examples / reading.seconds,
                tokens_per_s=reading.num_tokens / reading.seconds,
                seconds_left=reading.seconds_left(self._total_steps - before.step),
            )
        )

    def _end_epoch(self, epoch: int) -> None:
        tally, labels = self._evaluate(), self._dataset.labels
        progress = self._progress
        event = EpochEvent(
            epoch + 1,
            progress.step,
            progress.epoch_loss_sum / max(1, progress.epoch_targets),
            tally.loss,
            metrics_of(self._config.task, tally, len(labels)),
            confusion_of(tally.predictions, tally.labels, labels) if labels else {},
        )
        self._progress = progress.after(event)
        self._post(event)
        self._checkpoint()
        if self._inputs.adapter_uri is not None:
            self._export_adapter(f"{self._inputs.adapter_uri}{progress.step}", event)

    def _export_adapter(self, uri: str, event: EpochEvent) -> None:
        # After a restart it may lie there already, and be served: it is the same, and is left alone.
        exists = agree([self._rank == 0 and folder_exists(uri)], self._engine.device)[0]
        if not exists:
            self.export(uri)
        metrics = {"validation_loss": event.validation_loss, **event.metrics}
        self._post(AdapterEvent(event.step, uri, metrics))

    def _evaluate(self) -> Tally:
        """Loss and predictions on the validation rows; each row counted once, whatever the world size."""
        tally = Tally()
        for number, (examples, batch) in enumerate(self._feed.validation()):
            self._heartbeat.at(self._progress.step, "evaluating", number)
            loss_sum, predictions = self._engine.evaluate(batch)
            if examples:
                tally.add(loss_sum, predictions, examples)
        parts: list[Tally | None] = [None] * self._world_size
        dist.all_gather_object(parts, tally)
        return Tally.merge(part for part in parts if part is not None)

    def _is_save_due(self) -> bool:
        every = self._config.checkpoint_every_steps
        return every is not None and self._progress.step % every == 0

    def _checkpoint(self) -> None:
        """Save every rank's shard. It is uploaded beside the next steps, and counts once all have arrived."""
        step = self._progress.step
        self._heartbeat.at(step, "saving")
        # In the worker's own folder of the Ray session, which goes with it if this process is killed.
        folder = tempfile.mkdtemp(prefix="checkpoint-", dir=Path.cwd())
        self._engine.save(Path(folder), asdict(self._progress))
        ray.train.report(
            {"step": step, CHECKPOINT_SCORE: self._progress.score},
            checkpoint=ray.train.Checkpoint.from_directory(folder),
            checkpoint_dir_name=folder_name(step),
            checkpoint_upload_mode=CheckpointUploadMode.ASYNC,
            delete_local_checkpoint_after_upload=True,
        )

    def _load(self, checkpoint: ray.train.Checkpoint) -> None:
        with checkpoint.as_directory() as folder:
            self._progress = Progress.from_json(self._engine.load(Path(folder), Path.cwd()))

    def _post(self, event: Event) -> None:
        if self._rank == 0:
            self._inputs.event_log.post.remote(event)
