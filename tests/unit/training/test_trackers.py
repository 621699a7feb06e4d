"""Trackers against stubs of their packages, which are not installed here."""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import pytest

from training.config import FinetuneConfig
from training.progress import EpochEvent, NoticeEvent, StepEvent
from training.trackers import KNOWN, TrackerSink, parameters_of, trackers

CONFIG = FinetuneConfig.model_validate(
    {
        "name": "t",
        "task": "sft",
        "model": "builtin:smollm2",
        "data": {"path": "ftp://user:hunter2@host/rows.jsonl"},
        "lora": {"rank": 4},
    }
)
EVENTS = [
    NoticeEvent("begin"),
    StepEvent(2, 4, 1, 0.5, 5e-5, 1.0, 10.0, 500.0, 0.0),
    EpochEvent(1, 4, 0.5, 0.25, {"perplexity": 1.25}, {"a": {"a": 1}}),
]
TRAIN = {"train/loss": 0.5, "train/learning_rate": 5e-5, "train/grad_norm": 1.0, "train/tokens_per_s": 500.0}
VALIDATION = {"validation/loss": 0.25, "validation/perplexity": 1.25}

Call = tuple[str, tuple[Any, ...], dict[str, Any]]


class Package(ModuleType):
    """A stub whose functions note how they were called; `init` returns the stub itself, as wandb's run."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__spec__ = ModuleSpec(name, None)
        self.calls: list[Call] = []
        self.fails_at = ""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)

        def call(*arguments: Any, **options: Any) -> Package:
            if name == self.fails_at:
                raise ConnectionError("https://user:hunter2@tracker does not answer")
            self.calls.append((name, arguments, options))
            return self

        return call


@pytest.fixture(autouse=True)
def nothing_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    for _, variables in KNOWN.values():
        for variable in variables:
            monkeypatch.delenv(variable, raising=False)


def installed(monkeypatch: pytest.MonkeyPatch, name: str) -> Package:
    package = Package(name)
    monkeypatch.setitem(sys.modules, name, package)
    return package


def tell_all(found: list[TrackerSink]) -> None:
    (sink,) = found
    with sink:
        for event in EVENTS:
            sink(event)


def test_mlflow_gets_the_parameters_the_curves_and_the_end_of_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    package = installed(monkeypatch, "mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracker")
    tell_all(trackers(CONFIG, "t-1", pytest.fail))
    assert package.calls == [
        ("start_run", (), {"run_name": "t-1"}),
        ("log_params", (parameters_of(CONFIG),), {}),
        ("log_metrics", (TRAIN,), {"step": 2}),
        ("log_metrics", (VALIDATION,), {"step": 4}),
        ("end_run", (), {"status": "FINISHED"}),
    ]


@pytest.mark.parametrize("variable", ["WANDB_API_KEY", "WANDB_PROJECT"])
def test_weights_and_biases_gets_a_run_that_can_be_resumed(
    monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    package = installed(monkeypatch, "wandb")
    monkeypatch.setenv(variable, "given")
    tell_all(trackers(CONFIG, "t-1", pytest.fail))
    assert package.calls == [
        ("init", (), {"id": "t-1", "name": "t-1", "resume": "allow", "config": parameters_of(CONFIG)}),
        ("log", (TRAIN,), {"step": 2}),
        ("log", (VALIDATION,), {"step": 4}),
        ("finish", (), {"exit_code": 0}),
    ]


def test_a_run_that_failed_ends_as_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    packages = [installed(monkeypatch, name) for name in KNOWN]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracker")
    monkeypatch.setenv("WANDB_API_KEY", "given")
    for sink in trackers(CONFIG, "t-1", pytest.fail):
        with pytest.raises(ValueError, match="bad row"), sink:
            raise ValueError("bad row")
    ends = [package.calls[-1] for package in packages]
    assert ends == [("end_run", (), {"status": "FAILED"}), ("finish", (), {"exit_code": 1})]


def test_nothing_is_told_unasked_or_to_what_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    package = installed(monkeypatch, "mlflow")
    monkeypatch.setenv("WANDB_API_KEY", "given")
    monkeypatch.setattr("training.trackers.find_spec", lambda name: name == "mlflow" or None)
    assert trackers(CONFIG, "t-1", pytest.fail) == []
    assert package.calls == []


@pytest.mark.parametrize("call", ["start_run", "log_metrics", "end_run"])
def test_a_tracker_that_fails_is_told_of_once_without_its_words_and_ends_no_run(
    monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    package = installed(monkeypatch, "mlflow")
    package.fails_at = call
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracker")
    told: list[str] = []
    tell_all(trackers(CONFIG, "t-1", told.append))
    assert told == ["mlflow failed (ConnectionError); the run goes on without it"]


def test_parameters_are_those_of_the_config_by_dotted_keys_without_where_data_lies() -> None:
    parameters = parameters_of(CONFIG)
    assert (parameters["model"], parameters["lora.rank"]) == ("builtin:smollm2", 4)
    assert "hunter2" not in str(parameters)
