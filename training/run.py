"""One fine-tuning run, seen from the driver: data, workers, parity, ModelCard."""

from __future__ import annotations

import re
import secrets
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import Any

import ray

from cluster.cards import ModelCard, Parity, new_model_id, slug
from cluster.connection import connect
from cluster.errors import Conflict, InvalidInput, JobFailed, NotFound
from cluster.fine_tuning_jobs import FineTuningJobs
from cluster.registry import Registry
from cluster.settings import settings
from cluster.storage import delete_folder, storage_uri
from training.checkpoints import (
    FoundCheckpoint,
    delete_others,
    newest_complete,
    require_same_files,
    require_same_rows,
    require_same_run,
)
from training.class_report import SHOWN, report_json, report_text
from training.config import FinetuneConfig
from training.examples import pad_token_id
from training.fit import EndedWaiting, Fit, start_event_log
from training.job_record import JobRecord
from training.loop_state import LoopInputs, LoopResult
from training.model_card import make_card, measured, readme
from training.parity import ParityInputs, check_adapter, check_parity, prompt_rows
from training.plots import plot_run
from training.prepare import Prepared, pinned, prepare
from training.progress import AdapterEvent, PlainProgress, Sink
from training.run_folder import RunFolder
from training.tensorboard import TensorBoard
from training.trackers import trackers

RUN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


class RunPaused(Exception):
    """The run was asked to stop, and has saved a checkpoint from which the same command goes on."""


@dataclass(frozen=True)
class Identity:
    """What a run is called. With a job, all of it follows from the job's id, so that the same command resumes."""

    run_name: str
    model_id: str
    job_id: str | None = None
    resumes: bool = False

    @property
    def is_resumed(self) -> bool:
        """Whether it was begun before for sure; a job's command is always the same."""
        return self.resumes and self.job_id is None

    @property
    def run_uri(self) -> str:
        return storage_uri("runs", self.run_name)

    @property
    def export_uri(self) -> str:
        return storage_uri("models", self.model_id.replace(":", "-"))


def identity_of(
    config: FinetuneConfig, *, job: str | None = None, run_name: str | None = None, resume: str | None = None
) -> Identity:
    """The names of a run, from what the command line was given; at most one of the three.

    Raises InvalidInput for a `run_name` that is none and Conflict for one that was used before, NotFound for a `resume`
    that was not.
    """
    if run_name is not None and not RUN_NAME.fullmatch(run_name):
        # In the folder of another run its checkpoints would be taken for an attempt of that one.
        raise InvalidInput(
            f"{run_name!r} cannot name a run; write up to 100 letters, digits, dots, _ and -, a letter or digit first",
            "run",
        )
    organization, suffix = settings().organization, config.output.suffix
    if job is not None:
        model_id = f"ft:{slug(config.model)}:{organization}:{suffix}:{job[-8:]}"
        return Identity(job, model_id, job, resumes=True)
    model_id = new_model_id(config.model, organization, suffix)
    if resume is not None:
        identity = Identity(resume, model_id, resumes=True)
        # One that was ended before its first checkpoint begins anew: under its name it could not be begun again.
        if newest_complete(identity.run_uri)[0] is None and not RunFolder(resume).exists():
            raise NotFound(f"the run {resume} has no complete checkpoint in {identity.run_uri}", "resume")
        return identity
    identity = Identity(run_name or f"{config.name}-{secrets.token_hex(4)}", model_id)
    if RunFolder(identity.run_name).exists() or newest_complete(identity.run_uri)[0] is not None:
        raise Conflict(
            f"the run {identity.run_name} exists already; go on with it by --resume {identity.run_name}, or "
            "choose another name",
            "run",
        )
    return identity


def run(config: FinetuneConfig, identity: Identity | None = None) -> ModelCard:
    """Train, prove, register. Returns the card; raises a HamletError in one sentence otherwise.

    Raises RunPaused when it was asked to stop by SIGTERM.
    """
    identity = identity or identity_of(config)
    config = pinned(config)
    checkpoint, passed_over = _checkpoint_to_resume(config, identity)
    prepared = prepare(config)
    if checkpoint is not None:
        require_same_rows(checkpoint.marker, prepared.rows.census.sha256, prepared.rows.description)
    folder = RunFolder(identity.run_name)
    folder.open(config)  # before anything is deleted: the run may still be running
    try:
        if identity.resumes and config.early_stopping_patience is None:
            # With patience an older one may be the best, and is gone back to.
            delete_others(identity.run_uri, checkpoint)
        connect()
        return _Run(config, identity, prepared, folder).run(checkpoint, passed_over)
    finally:
        folder.close()


def _checkpoint_to_resume(
    config: FinetuneConfig, identity: Identity
) -> tuple[FoundCheckpoint | None, list[str]]:
    """The checkpoint to go on from, and the names of newer ones that are not complete."""
    if not identity.resumes:
        return None, []
    found, passed_over = newest_complete(identity.run_uri)
    if found is not None:
        require_same_run(found.marker, config.model_dump(mode="json"), config.global_batch_size)
        require_same_files(found.marker, config.scaling.zero_stage)
    return found, passed_over


class _Run:
    """The parts of one run that share its names, data and folder."""

    def __init__(
        self, config: FinetuneConfig, identity: Identity, prepared: Prepared, folder: RunFolder
    ) -> None:
        self._config, self._identity = config, identity
        self._prepared, self._folder = prepared, folder
        self._dataset_ref = ray.put(prepared.dataset)
        # Now: the file may change or go while the run trains.
        self._prompt_rows = prompt_rows(config, prepared.rows.validation, prepared.tokenizer)
        self._record = (
            JobRecord(identity.job_id, self._adapter_card, FineTuningJobs()) if identity.job_id else None
        )

    def run(self, checkpoint: FoundCheckpoint | None, passed_over: list[str]) -> ModelCard:
        started = time.monotonic()
        self._say(f"run {self._identity.run_name}")
        for text in _damage(passed_over, checkpoint, is_resumed=self._identity.is_resumed):
            self._warn(text)
        self._say(_opening(self._config, self._prepared))
        try:
            result = self._train(checkpoint)
        except EndedWaiting as exc:
            raise RunPaused(
                f"ended while it waited for its workers; the run goes on with {self._resume_command()}"
            ) from exc
        if result.is_paused:
            raise RunPaused(
                f"paused at step {result.steps}; the checkpoint is complete, and the run goes on with "
                f"{self._resume_command()}"
            )
        self._say("checking the exported model in a fresh process")
        check = self._begin_check(result)
        plots = plot_run(self._folder.events(), self._folder.path)  # meanwhile
        card = self._proven(result, ray.get(check))
        self._write_folder(card, result, plots)
        self._register(card, result)
        if 0 < len(card.labels) <= SHOWN:
            _say(report_text(result.confusion, card.labels))
        _say(_closing(card, self._config, result, time.monotonic() - started))
        return card

    def _train(self, checkpoint: FoundCheckpoint | None) -> LoopResult:
        event_log = start_event_log(self._config.scaling.hang_timeout_s)
        # Each epoch's adapter is small and can be served at once; whole weights would fill the storage.
        adapters = self._record is not None and self._config.exports_adapter
        inputs = LoopInputs(
            self._config,
            self._dataset_ref,
            pad_token_id(self._prepared.tokenizer),
            self._identity.run_uri,
            self._identity.export_uri,
            event_log,
            resume_uri=checkpoint.uri if checkpoint else None,
            adapter_uri=f"{self._identity.export_uri}-ckpt-step-" if adapters else None,
            data_sha256=self._prepared.rows.census.sha256,
        )
        with ExitStack() as stack:
            if self._record is not None:
                stack.callback(self._record.drain)
            board = stack.enter_context(closing(TensorBoard(self._folder.path)))
            asked = trackers(self._config, self._identity.run_name, self._warn)
            sinks: list[Sink] = [
                self._folder.write_event,
                PlainProgress(self._config.epochs, sys.stdout),
                board,
                *([self._record] if self._record else []),
                *(stack.enter_context(tracker) for tracker in asked),
            ]
            # One folder per attempt: what another one left half written is never mixed with ours.
            return Fit(self._config, inputs, f"attempt-{secrets.token_hex(4)}", sinks).run()

    def _begin_check(self, result: LoopResult) -> Any:
        """A reference to the coming Parity."""
        inputs = self._parity_inputs(self._identity.export_uri, result)
        # On what a worker had: its threads, and its device, which rounds as it did. Never run twice in one process: a
        # reused worker would not prove a fresh load.
        num_cpus, num_gpus = self._config.scaling.cpus_per_worker, int(result.used_gpu)
        return ray.remote(num_cpus=num_cpus, num_gpus=num_gpus, max_calls=1)(check_parity).remote(inputs)

    def _proven(self, result: LoopResult, parity: Parity) -> ModelCard:
        """The card of a model that passed. Raises JobFailed for another, whose weights are deleted."""
        if not parity.passed:
            delete_folder(self._identity.export_uri)
            raise JobFailed(f"the model is not registered: {parity.detail}", code="parity_failed")
        metrics = {"validation_loss": result.validation_loss, **result.metrics}
        return self._card(
            self._identity.model_id, self._identity.export_uri, metrics, result.trained_tokens, parity
        )

    def _register(self, card: ModelCard, result: LoopResult) -> None:
        if self._identity.job_id is None:
            Registry().register(card)
        elif not FineTuningJobs().succeed(self._identity.job_id, card, result.trained_tokens):
            delete_folder(self._identity.export_uri)
            raise JobFailed(f"the job {self._identity.job_id} had ended before; its model is not registered")
        if self._config.output.alias:
            Registry().promote(self._config.output.alias, card.id)

    def _write_folder(self, card: ModelCard, result: LoopResult, plots: list[str]) -> None:
        self._folder.write_json("measured.json", measured(result))
        if card.labels:
            self._folder.write_json("report.json", report_json(result.confusion, card.labels))
        text = readme(card, self._config, self._prepared, result, plots)
        self._folder.write_text("README.md", text)

    def _adapter_card(self, event: AdapterEvent) -> ModelCard:
        """The card of an epoch's adapter, `<model>:ckpt-step-N`."""
        parity = check_adapter(self._parity_inputs(event.uri), self._prepared.dataset, event.metrics)
        model_id = f"{self._identity.model_id}:ckpt-step-{event.step}"
        return self._card(model_id, event.uri, event.metrics, 0, parity)

    def _card(
        self, model_id: str, uri: str, metrics: dict[str, float], trained_tokens: int, parity: Parity
    ) -> ModelCard:
        return make_card(
            self._config,
            self._prepared,
            model_id=model_id,
            weights_uri=uri,
            metrics=metrics,
            trained_tokens=trained_tokens,
            parity=parity,
        )

    def _parity_inputs(self, uri: str, result: LoopResult | None = None) -> ParityInputs:
        return ParityInputs(self._config, self._dataset_ref, uri, result, self._prompt_rows)

    def _resume_command(self) -> str:
        if self._identity.job_id is not None:
            return f"--job {self._identity.job_id}"
        return f"--resume {self._identity.run_name}"

    def _warn(self, text: str) -> None:
        self._say(text, level="warn")

    def _say(self, text: str, level: str = "info") -> None:
        _say(text)
        if self._record is not None:
            self._record.say(text, level)


def _damage(passed_over: Sequence[str], checkpoint: FoundCheckpoint | None, *, is_resumed: bool) -> list[str]:
    """What is to be told of checkpoints that are not complete, and of a run that has no other."""
    told = [f"the checkpoint {name} is not complete and is passed over" for name in passed_over]
    begins_anew = checkpoint is None and (told or is_resumed)
    return [*told, "no checkpoint is complete: the run begins anew"] if begins_anew else told


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
