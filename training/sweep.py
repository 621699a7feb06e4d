"""A sweep: the same run with every combination of some values, side by side on the cluster.

Ray Tune decides what runs when; each trial is one run as `python -m training run` makes it, up to its export.
Only with `keep_best` is a model proven and registered: that of the best trial, trained once more by itself.
"""

from __future__ import annotations

import itertools
import math
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray
from ray import tune

from cluster.connection import connect
from cluster.errors import ConfigError, JobFailed
from cluster.last_words import last_line
from cluster.storage import delete_folder, storage_uri
from training.config import FinetuneConfig, ScalingConfig, load_config
from training.examples import pad_token_id
from training.fit import Fit, has_gpus_for, room_of_worker, start_event_log
from training.loop_state import LoopInputs
from training.plots import LOSS, VALIDATION_LOSS, plot_curves, points
from training.prepare import Prepared, pinned, prepare
from training.progress import EpochEvent, Event
from training.run import run
from training.run_folder import RunFolder
from training.token_cache import form_of_tokens


@dataclass(frozen=True)
class Trial:
    """One combination: its name (`learning_rate=0.1`), its overrides and the config they make."""

    name: str
    overrides: tuple[str, ...]
    config: FinetuneConfig


@dataclass(frozen=True)
class Outcome:
    """What a trial came to. `error` is set instead of figures where it failed."""

    trial: Trial
    validation_loss: float = float("nan")
    training_loss: float = float("nan")
    error: str = ""


def grid(overrides: Sequence[str]) -> list[tuple[str, ...]]:
    """Every combination of overrides whose values are lists.

    A comma parts values, except within brackets, which are one YAML value.

    >>> grid(["learning_rate=0.1,0.01", "epochs=2"])
    [('learning_rate=0.1', 'epochs=2'), ('learning_rate=0.01', 'epochs=2')]
    """
    choices = []
    for override in overrides:
        key, separator, values = override.partition("=")
        if not separator:
            raise ConfigError(
                f"{override!r} is not of the form key=value,value, such as learning_rate=0.1,0.01"
            )
        choices.append([f"{key}={value}" for value in _split(values)])
    return list(itertools.product(*choices))


def trials_of(config: Path, overrides: Sequence[str], max_steps: int | None) -> list[Trial]:
    """The trials of a grid, each named by what sets it apart. Raises ConfigError for any bad combination."""
    combinations = grid(overrides)
    steps = [f"max_steps={max_steps}"] if max_steps is not None else []
    trials = []
    for combination in combinations:
        apart = [
            own for index, own in enumerate(combination) if len({other[index] for other in combinations}) > 1
        ]
        name = " ".join(apart) or "as configured"
        trials.append(Trial(name, combination, load_config(config, [*combination, *steps])))
    return trials


def sweep(trials: list[Trial], name: str, *, keep_best: bool = False) -> list[Outcome]:
    """Run all trials, write the table and the pictures into the folder of the sweep `name`.

    Returns the outcomes, best first. A trial that fails does not end the others; raises JobFailed when all do.
    """
    connect()
    trials = [replace(trial, config=pinned(trial.config)) for trial in trials]
    folder = RunFolder(name)
    folder.open(trials[0].config)
    try:
        data = _prepared_once(trials)
        outcomes = _run_all(trials, data, name)
        outcomes.sort(key=_rank)
        folder.write_text("sweep.txt", table(outcomes) + "\n")
        draw(trials, name, folder.path)
    finally:
        folder.close()
    if outcomes[0].error:
        raise JobFailed(f"every trial failed, the first because: {outcomes[0].error}")
    if keep_best and not math.isfinite(outcomes[0].validation_loss):
        raise JobFailed("every trial diverged, so that none is kept; try lower values of learning_rate")
    if keep_best:
        run(outcomes[0].trial.config)
    return outcomes


def _rank(outcome: Outcome) -> tuple[bool, bool, float]:
    # A number that is none has no place among others, and would leave all of them unsorted.
    return bool(outcome.error), not math.isfinite(outcome.validation_loss), outcome.validation_loss


def table(outcomes: Sequence[Outcome]) -> str:
    """The outcomes, best first."""
    width = max(len("Trial"), *(len(outcome.trial.name) for outcome in outcomes))
    lines = [f"{'Trial':{width}}  Training Loss  Validation Loss"]
    for outcome in outcomes:
        figures = f"{outcome.training_loss:13.4f}  {outcome.validation_loss:15.4f}"
        lines.append(f"{outcome.trial.name:{width}}  {outcome.error or figures}")
    return "\n".join(lines)


def draw(trials: Sequence[Trial], name: str, folder: Path) -> None:
    """`loss.svg` and `validation_loss.svg` (and .png): the curves of all trials that got so far."""
    for plot in (LOSS, VALIDATION_LOSS):
        curves = {
            trial.name: points(RunFolder(_trial_run(name, index)).events(), plot)
            for index, trial in enumerate(trials)
        }
        drawn = {trial: curve for trial, curve in curves.items() if curve}
        if drawn:
            plot_curves(drawn, plot, folder)


def _prepared_once(trials: Sequence[Trial]) -> list[Prepared]:
    """The data of each trial; trials whose data are the same share it."""
    made: dict[str, Prepared] = {}
    prepared = []
    for trial in trials:
        config = trial.config
        key = repr((config.data, config.model, form_of_tokens(config)))
        made[key] = made.get(key) or prepare(config)
        prepared.append(made[key])
    return prepared


def _run_all(trials: list[Trial], data: Sequence[Prepared], name: str) -> list[Outcome]:
    references: dict[int, Any] = {}
    inputs = []
    for index, (trial, prepared) in enumerate(zip(trials, data, strict=True)):
        reference = references.setdefault(id(prepared), ray.put(prepared.dataset))
        inputs.append((trial.config, reference, pad_token_id(prepared.tokenizer), _trial_run(name, index)))
    at_once = num_at_once([trial.config.scaling for trial in trials], ray.cluster_resources())
    # The trial itself only waits, and its workers take the cores; Tune wants it to take something.
    trainable = tune.with_resources(tune.with_parameters(_trial, inputs=inputs), {"memory": 1})
    results = tune.Tuner(
        trainable,
        param_space={"index": tune.grid_search(list(range(len(trials))))},
        tune_config=tune.TuneConfig(max_concurrent_trials=at_once, metric="validation_loss", mode="min"),
        run_config=tune.RunConfig(name=f"{name}-tune", storage_path=storage_uri("runs"), verbose=0),
    ).fit()
    outcomes = []
    for result in results:
        trial = trials[(result.config or {})["index"]]
        if result.error is not None:
            outcomes.append(Outcome(trial, error=last_line(str(result.error), "failed")))
        else:
            figures = result.metrics or {}
            outcomes.append(Outcome(trial, figures["validation_loss"], figures["training_loss"]))
    delete_folder(storage_uri("runs", f"{name}-tune"))
    return outcomes


def num_at_once(trials: Sequence[ScalingConfig], cluster: Mapping[str, float]) -> int:
    """How many trials run side by side: of the largest as many as there are CPUs and, where they are used, GPUs for.

    >>> [num_at_once([ScalingConfig(num_workers=2)], cluster) for cluster in ({"CPU": 9.0}, {"CPU": 9.0, "GPU": 2.0})]
    [4, 1]
    """
    rooms = [
        cluster.get(name, 0) // (scaling.num_workers * amount)
        for scaling in trials
        for name, amount in room_of_worker(
            scaling, use_gpu=has_gpus_for(scaling, cluster.get("GPU", 0))
        ).items()
    ]
    return max(1, int(min(rooms)))


def _trial(parameters: dict[str, Any], inputs: list[tuple[FinetuneConfig, Any, int, str]]) -> None:
    """One trial, in a process of Ray Tune's: its workers are Ray Train's."""
    os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
    config, dataset, pad_id, run_name = inputs[parameters["index"]]
    folder = RunFolder(run_name)
    folder.open(config)
    epochs: list[EpochEvent] = []

    def keep(event: Event) -> None:
        if isinstance(event, EpochEvent):
            epochs.append(event)

    event_log = start_event_log(config.scaling.hang_timeout_s)
    loop = LoopInputs(config, dataset, pad_id, storage_uri("runs", run_name), None, event_log)
    try:
        result = Fit(config, loop, "trial", [folder.write_event, keep]).run()
    finally:
        folder.close()
        delete_folder(loop.run_uri)  # nobody goes on from a trial
    # With early stopping the best epoch counts, which a run would export, and not the last.
    kept = (event for event in epochs if event.validation_loss == result.validation_loss)
    best = next(kept, epochs[-1])
    tune.report({"validation_loss": result.validation_loss, "training_loss": best.training_loss})


def _trial_run(name: str, index: int) -> str:
    return f"{name}-{index + 1:02d}"


def _split(values: str) -> list[str]:
    """Split at commas outside brackets.

    >>> _split("[a,b],c")
    ['[a,b]', 'c']
    """
    parts, depth = [""], 0
    for character in values:
        depth += (character in "[{") - (character in "]}")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return parts


def say(outcomes: Sequence[Outcome], folder: Path) -> None:
    """Print the table and where the pictures lie."""
    sys.stdout.write(f"{table(outcomes)}\ncurves: {folder / 'loss.svg'} and .png\n")
    sys.stdout.flush()
