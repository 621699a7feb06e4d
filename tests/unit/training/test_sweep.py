from __future__ import annotations

from pathlib import Path

import pytest

from cluster.errors import ConfigError
from training.sweep import Outcome, grid, table, trials_of

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


def test_the_table_has_a_line_for_each_trial_and_tells_why_one_failed(config: Path) -> None:
    first, second = trials_of(config, ["learning_rate=0.1,0.01"], None)
    lines = table([Outcome(second, 0.25, 0.5), Outcome(first, error="loss is not finite")]).splitlines()
    assert lines[1].split() == ["learning_rate=0.01", "0.5000", "0.2500"]
    assert lines[2] == "learning_rate=0.1   loss is not finite"
