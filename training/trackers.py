"""Experiment trackers of the user's: MLflow and Weights & Biases, told what TensorBoard is told.

Each is used when its package is installed and a variable of its own names where to, and never else. What a variable
means is the package's own: nothing of it is read here.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from importlib.util import find_spec
from types import TracebackType
from typing import Any, Protocol

from training.config import FinetuneConfig
from training.progress import EpochEvent, Event, StepEvent, scalars_of


class Tracker(Protocol):
    """One run in a service of somebody else's."""

    def begin(self, run_name: str, parameters: Mapping[str, Any]) -> None: ...

    def log(self, scalars: Mapping[str, float], step: int) -> None: ...

    def end(self, has_failed: bool) -> None: ...


class MLflow:
    """Experiment and server are those of `MLFLOW_TRACKING_URI` and `MLFLOW_EXPERIMENT_NAME`."""

    def begin(self, run_name: str, parameters: Mapping[str, Any]) -> None:
        import mlflow

        mlflow.start_run(run_name=run_name)
        mlflow.log_params(dict(parameters))

    def log(self, scalars: Mapping[str, float], step: int) -> None:
        import mlflow

        mlflow.log_metrics(dict(scalars), step=step)

    def end(self, has_failed: bool) -> None:
        import mlflow

        mlflow.end_run(status="FAILED" if has_failed else "FINISHED")


class WeightsAndBiases:
    """Project and account are those of `WANDB_PROJECT` and `WANDB_API_KEY`."""

    def begin(self, run_name: str, parameters: Mapping[str, Any]) -> None:
        import wandb

        # A run that is resumed goes on in the same curves.
        self._run = wandb.init(id=run_name, name=run_name, resume="allow", config=dict(parameters))

    def log(self, scalars: Mapping[str, float], step: int) -> None:
        self._run.log(dict(scalars), step=step)

    def end(self, has_failed: bool) -> None:
        self._run.finish(exit_code=int(has_failed))


# By package: the tracker, and variables of which one that is set asks for it.
KNOWN: dict[str, tuple[type[Tracker], tuple[str, ...]]] = {
    "mlflow": (MLflow, ("MLFLOW_TRACKING_URI",)),
    "wandb": (WeightsAndBiases, ("WANDB_API_KEY", "WANDB_PROJECT")),
}


class TrackerSink(AbstractContextManager["TrackerSink"]):
    """A tracker as a sink. One that fails is told of once and left alone: no run ends for it."""

    def __init__(
        self,
        name: str,
        tracker: Tracker,
        run_name: str,
        parameters: Mapping[str, Any],
        warn: Callable[[str], None],
    ) -> None:
        self._name, self._tracker, self._warn = name, tracker, warn
        self._is_lost = False
        self._do(lambda: tracker.begin(run_name, parameters))

    def __call__(self, event: Event) -> None:
        if isinstance(event, StepEvent | EpochEvent):
            self._do(lambda: self._tracker.log(scalars_of(event), event.step))

    def __exit__(
        self, kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._do(lambda: self._tracker.end(has_failed=kind is not None))

    def _do(self, call: Callable[[], None]) -> None:
        if self._is_lost:
            return
        try:
            call()
        except Exception as exc:  # noqa: BLE001 - somebody else's client of somebody else's service
            self._is_lost = True
            # Not its words, which may hold an address with a password.
            self._warn(f"{self._name} failed ({type(exc).__name__}); the run goes on without it")


def trackers(config: FinetuneConfig, run_name: str, warn: Callable[[str], None]) -> list[TrackerSink]:
    """Those that are installed and asked for, each with its run begun."""
    return [
        TrackerSink(name, kind(), run_name, parameters_of(config), warn)
        for name, (kind, variables) in KNOWN.items()
        if any(os.environ.get(variable) for variable in variables) and find_spec(name) is not None
    ]


def parameters_of(config: FinetuneConfig) -> dict[str, Any]:
    """The config by dotted keys, without `data`: an address may hold a password."""
    return _flat(config.model_dump(mode="json", exclude={"data"}), "")


def _flat(values: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in values.items():
        found |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return found
