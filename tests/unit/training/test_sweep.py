from __future__ import annotations

from itertools import permutations
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cluster.errors import ConfigError, JobFailed
from cluster.settings import settings
from training import sweep as training_sweep
from training.config import FinetuneConfig, ScalingConfig
from training.progress import EpochEvent, Sink
from training.sweep import Outcome, grid, num_at_once, sweep, table, trials_of

YAML = "name: t\ntask: sft\nmodel: builtin:smollm2\ndata: {path: rows.jsonl}\n"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(YAML)
    return path


def test_a_grid_is_every_combination_and_brackets_are_one_value() -> None:
    assert grid(["a=1,2", "b=[x,y],z"]) == [
        ("a=1", "b=[x,y]"),
        ("a=1", "b=z"),
        ("a=2", "b=[x,y]"),
        ("a=2", "b=z"),
    ]
    assert grid([]) == [()]


def test_trials_are_named_by_what_sets_them_apart(config: Path) -> None:
    trials = trials_of(config, ["learning_rate=0.1,0.01", "epochs=2"], max_steps=50)
    assert [trial.name for trial in trials] == ["learning_rate=0.1", "learning_rate=0.01"]
    assert [trial.config.learning_rate for trial in trials] == [0.1, 0.01]
    assert {(trial.config.epochs, trial.config.max_steps) for trial in trials} == {(2, 50)}


def test_a_bad_combination_is_refused_before_anything_runs(config: Path) -> None:
    with pytest.raises(ConfigError, match="learning_rate"):
        trials_of(config, ["learning_rate=0.1,7"], None)
    with pytest.raises(ConfigError, match="is not of the form key=value,value"):
        trials_of(config, ["learning_rate"], None)


@pytest.mark.parametrize(
    ("cluster", "expected"),
    [
        ({"CPU": 16.0}, 4),  # by the trial of four workers
        ({"CPU": 16.0, "GPU": 4.0}, 1),
        ({"CPU": 16.0, "GPU": 9.0}, 2),
        ({"CPU": 16.0, "GPU": 2.0}, 2),  # the larger one trains on CPUs there
        ({"CPU": 1.0}, 1),
    ],
)
def test_as_many_trials_run_at_once_as_there_are_cpus_and_gpus_for(
    cluster: dict[str, float], expected: int
) -> None:
    trials = [ScalingConfig(num_workers=1), ScalingConfig(num_workers=4)]
    assert num_at_once(trials, cluster) == expected
    on_cpus = [scaling.model_copy(update={"use_gpu": False}) for scaling in trials]
    assert num_at_once(on_cpus, {"CPU": 16.0, "GPU": 1.0}) == 4


def test_the_table_has_a_line_for_each_trial_and_tells_why_one_failed(config: Path) -> None:
    first, second = trials_of(config, ["learning_rate=0.1,0.01"], None)
    lines = table([Outcome(second, 0.25, 0.5), Outcome(first, error="loss is not finite")]).splitlines()
    assert lines[1].split() == ["learning_rate=0.01", "0.5000", "0.2500"]
    assert lines[2] == "learning_rate=0.1   loss is not finite"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HAMLET_HOME", str(tmp_path))
    settings.cache_clear()
    return tmp_path


class Sweep:
    """A sweep whose trials end as they are told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, config: Path) -> None:
        self.trials = trials_of(config, ["learning_rate=0.1,0.2,0.3,0.4"], None)
        self.kept: list[FinetuneConfig] = []
        for name in ("connect", "draw"):
            monkeypatch.setattr(training_sweep, name, lambda *_: None)
        monkeypatch.setattr(training_sweep, "_prepared_once", lambda _trials: [])
        monkeypatch.setattr(training_sweep, "_run_all", lambda *_: list(self.outcomes))
        monkeypatch.setattr(training_sweep, "run", self.kept.append)

    def ends(self, *outcomes: Outcome) -> list[Outcome]:
        self.outcomes = outcomes
        return sweep(self.trials, "s", keep_best=True)


@pytest.mark.usefixtures("home")
def test_a_trial_that_diverged_is_never_the_best(monkeypatch: pytest.MonkeyPatch, config: Path) -> None:
    swept = Sweep(monkeypatch, config)
    nan, worse, better, failed = swept.trials
    outcomes = [
        Outcome(nan, float("nan"), 1.0),
        Outcome(worse, 0.5, 1.0),
        Outcome(better, 0.4, 1.0),
        Outcome(failed, error="lost"),
    ]
    for order in permutations(outcomes):
        assert [outcome.trial for outcome in swept.ends(*order)] == [better, worse, nan, failed]
    assert set(swept.kept) == {better.config}


@pytest.mark.usefixtures("home")
def test_no_model_is_kept_when_all_trials_diverged(monkeypatch: pytest.MonkeyPatch, config: Path) -> None:
    swept = Sweep(monkeypatch, config)
    with pytest.raises(JobFailed, match="every trial diverged, so that none is kept; try lower"):
        swept.ends(*(Outcome(trial, float("inf"), 1.0) for trial in swept.trials))
    assert not swept.kept


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize(("result", "reported"), [(0.3, (0.3, 0.2)), (float("nan"), (float("nan"), 0.1))])
def test_a_trial_is_told_by_the_epoch_that_a_run_would_export(
    monkeypatch: pytest.MonkeyPatch, config: Path, result: float, reported: tuple[float, float]
) -> None:
    class EndedFit:
        def __init__(self, _config: object, _loop: object, _name: str, sinks: list[Sink]) -> None:
            self._sinks = sinks

        def run(self) -> Any:
            for number, (training, validation) in enumerate([(0.2, 0.3), (0.1, 0.9)], 1):
                for sink in self._sinks:
                    sink(EpochEvent(number, number, training, validation))
            return SimpleNamespace(validation_loss=result)

    told: list[dict[str, float]] = []
    monkeypatch.setattr(training_sweep, "Fit", EndedFit)
    monkeypatch.setattr(training_sweep, "start_event_log", lambda _timeout: None)
    monkeypatch.setattr(training_sweep, "tune", SimpleNamespace(report=told.append))
    (trial,) = trials_of(config, [], None)
    training_sweep._trial({"index": 0}, [(trial.config, None, 0, "s-01")])
    assert [(one["validation_loss"], one["training_loss"]) for one in told] == [
        pytest.approx(reported, nan_ok=True)
    ]


@pytest.mark.parametrize(("task", "times"), [("mlm", 2), ("sft", 1)])
def test_trials_share_data_unless_the_seed_chooses_its_masks(
    monkeypatch: pytest.MonkeyPatch, config: Path, task: str, times: int
) -> None:
    monkeypatch.setattr(training_sweep, "prepare", lambda _config: object())
    trials = trials_of(config, [f"task={task}", "seed=1,2", "learning_rate=0.1,0.2"], None)
    assert len({id(made) for made in training_sweep._prepared_once(trials)}) == times
