"""The training runs of a comparison: Ray jobs of `python -m training run`, followed to their end.

A run that is done is kept by its seed and data, so that a comparison that was interrupted does not train
again; a job that still runs is found by its id and followed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Protocol

from cluster import jobs
from cluster.errors import ConfigError, JobFailed, NotFound
from cluster.registry import Registry
from cluster.reports import new_report_id
from cluster.submission import submit, submit_command
from cluster.yaml_config import Section, load_yaml_config
from evaluation.config import TUNED, CompareConfig, TuningConfig, placeholder_in
from evaluation.kept import Kept, once, write_whole
from evaluation.raft import write_rows_with_passages

MAX_ATTEMPTS = 20
LOG_LINES_IN_ERROR = 3


class TrainedModel(Kept):
    """One finished training run."""

    variant: str  # names the run in answers: "seed 1"
    placeholder: str = TUNED  # what stands for it in the names of cells
    seed: int
    model: str  # card id
    seconds: float  # from the job's start to its end, start-up and checks included
    trained_tokens: int
    validation_loss: float | None

    def name_in(self, model: str) -> str:
        """The name that is asked for, where a cell's model name holds the placeholder."""
        return model.replace(self.placeholder, self.model)


class OwnData(Section, extra="ignore"):
    """The rows that the training's own file names; what else it holds is read by `python -m training`."""

    path: str | None = None
    validation_path: str | None = None


class TrainingFile(Section, extra="ignore"):
    data: OwnData = OwnData()


class Trainer(Protocol):
    """Runs one training; a fake in tests."""

    def __call__(self, tuning: TuningConfig, run_id: str, overrides: Sequence[str]) -> tuple[str, float]:
        """Train with `overrides` and return the model's id and the seconds it took."""


def train_seeds(config: CompareConfig, run_id: str, trainer: Trainer) -> list[TrainedModel]:
    """The models of each seed, on all of the data; none where no cell needs one."""
    if config.tuning is None:
        return []
    return [
        run
        for seed in config.tuning.seeds
        for run in train_all(config, run_id, f"seed {seed}", seed, (), trainer)
    ]


def train_all(
    config: CompareConfig,
    run_id: str,
    variant: str,
    seed: int,
    overrides: Sequence[str],
    trainer: Trainer,
    rows: Path | None = None,
    collection: str | None = None,
) -> list[TrainedModel]:
    """A model for each placeholder that cells name, on other rows and another collection where they are given.

    What was trained the last time is not trained again. Raises JobFailed with the job's last words.
    """
    tuning = config.tuning
    assert tuning is not None

    def train(placeholder: str, given: Sequence[str]) -> TrainedModel:
        model, seconds = trainer(tuning, f"{run_id}-{_short(variant, [*given, content])}", given)
        card = Registry().get(model)
        return TrainedModel(
            variant=variant,
            placeholder=placeholder,
            seed=seed,
            model=card.id,
            seconds=seconds,
            trained_tokens=card.trained_tokens,
            validation_loss=card.metrics.get("validation_loss"),
        )

    # Of the rows themselves: their file may be another one when the same comparison is run again.
    content = _sha256(rows or config.training)
    trained = []
    for placeholder in config.placeholders:
        own_rows = _rows_of(config, placeholder, rows, collection)
        given = [*tuning.overrides, f"seed={seed}", *own_rows, *overrides]
        asked = (tuning.config.read_text(encoding="utf-8"), variant, given, content)
        run = partial(train, placeholder, given)
        trained.append(once(config.output / "training", "run", asked, TrainedModel, run))
    return trained


def runs_of(model: str, trained: Sequence[TrainedModel]) -> list[TrainedModel]:
    """The runs that a cell's model name stands for; none for a model that was there before."""
    return [run for run in trained if run.placeholder in model]


def named(model: str, trained: Sequence[TrainedModel]) -> list[tuple[str, str]]:
    """Variant and asked name of each run that a cell's model name stands for, or the name as it is."""
    if placeholder_in(model) is None:
        return [("", model)]
    return [(run.variant, run.name_in(model)) for run in runs_of(model, trained)]


def _rows_of(
    config: CompareConfig, placeholder: str, rows: Path | None, collection: str | None
) -> Sequence[str]:
    """Overrides that name the rows to train on: those of `training`, or of the training's own file without it."""
    rows, collection = rows or config.training, collection or config.collection
    if placeholder == TUNED:
        return [] if rows is None else [f"data.path={rows}", *_validation_rows(config)]
    assert rows is not None
    assert collection is not None
    path = write_rows_with_passages(config, rows, collection)
    # The training's own validation rows have no passages.
    return [f"data.path={path}", "data.validation_path=null", *config.raft.overrides]


def _validation_rows(config: CompareConfig) -> Sequence[str]:
    """The validation rows of the training's own file go with its own rows, and with no others."""
    tuning, training = config.tuning, config.training
    assert tuning is not None
    assert training is not None
    own = own_data(tuning)
    is_own = own.path is not None and Path(own.path).resolve() == training.resolve()
    if own.validation_path is None or is_own or tuning.overrides_key("data.validation_path"):
        return []
    return ["data.validation_path=null"]


def training_files(config: CompareConfig) -> list[Path]:
    """The JSONL files of rows that models are trained on, as far as they lie here. Errors as `own_data`."""
    own = None if config.tuning is None else own_data(config.tuning).path
    if config.training is not None:
        return [config.training]
    return [Path(own)] if own is not None and own.endswith(".jsonl") and Path(own).is_file() else []


def own_data(tuning: TuningConfig) -> OwnData:
    """What the training's own file and its overrides say of its rows. Raises ConfigError when it cannot be read."""
    try:
        return load_yaml_config(TrainingFile, tuning.config, tuning.overrides).data
    except ConfigError as exc:
        raise ConfigError(f"tuning.config: {exc.message}", "tuning.config") from exc


def _sha256(file: Path | None) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest() if file is not None else ""


def train_as_job(tuning: TuningConfig, run_id: str, overrides: Sequence[str]) -> tuple[str, float]:
    """Train as a Ray job, or follow the job of this run that was submitted before."""
    # The alias by which the model is found once its job has ended.
    entrypoint = ["python", "-m", "training", "run", str(tuning.config), *overrides, f"output.alias={run_id}"]
    job_id = _finished_job(entrypoint, run_id)
    return Registry().get(run_id).id, _seconds(job_id)


def _finished_job(entrypoint: Sequence[str], run_id: str) -> str:
    """The id of the first job of this run that succeeds. Ids of failed jobs cannot be used again."""
    for attempt in range(1, MAX_ATTEMPTS + 1):
        job_id = f"{run_id}-{attempt}"
        log = _Tail()
        try:
            status, is_new = jobs.follow(job_id, write=log.write), False
        except NotFound:
            submit(submit_command(entrypoint), job_id)
            status, is_new = jobs.follow(job_id, write=log.write), True
        if status == "SUCCEEDED":
            return job_id
        if is_new:
            raise JobFailed(f"the training job {job_id} ended as {status}: {log.last_words}")
    raise JobFailed(f"the training {run_id} failed {MAX_ATTEMPTS} times; see ray job logs {run_id}-1")


def _seconds(job_id: str) -> float:
    info = jobs.job_client().get_job_info(job_id)
    return (int(info.end_time) - int(info.start_time)) / 1000


class _Tail:
    """The end of a log that comes in pieces."""

    def __init__(self) -> None:
        self._text = ""

    def write(self, text: str) -> None:
        self._text = (self._text + text)[-4000:]

    @property
    def last_words(self) -> str:
        lines = [line.strip() for line in self._text.splitlines() if line.strip()]
        return " ".join(lines[-LOG_LINES_IN_ERROR:]) or "it said nothing"


def _short(variant: str, given: Sequence[str]) -> str:
    """A run's name that is fit for an alias, and differs where the overrides do.

    ("1/4 of the rows", ["seed=1"]) -> "1-4-of-the-rows-0b5f2f"
    """
    name = "".join(char if char.isalnum() else "-" for char in variant.lower())
    return f"{name}-{hashlib.sha256(repr(list(given)).encode()).hexdigest()[:6]}"


def run_id_of(output: Path) -> str:
    """The id of the comparison in this folder: made once, so that its jobs and its report are found again."""
    path = output / "run-id"
    if not path.exists():
        write_whole(path, new_report_id().encode())
    return path.read_text().strip()
