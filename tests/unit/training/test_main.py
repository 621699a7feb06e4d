"""`python -m training`, as far as it goes without a cluster."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cluster.errors import ConfigError, DataError, Unavailable
from training import __main__ as main
from training.__main__ import app
from training.plan import Prices
from training.run import RunPaused

ROWS = "examples/handbook/train.jsonl"


def command_line(*arguments: str) -> None:
    CliRunner().invoke(app, arguments, catch_exceptions=False)


@pytest.mark.parametrize("command", [["run"], ["sweep", "--steps", "5"]])
def test_a_cluster_that_is_not_there_is_told_before_anything_heavy_is_imported(
    command: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setitem(sys.modules, "training.run", None)  # importing it would fail the test
    monkeypatch.setitem(sys.modules, "training.sweep", None)
    arguments = [*command, "examples/bert-paraphrase.yaml", "learning_rate=0.001"]
    with pytest.raises(Unavailable, match="no Ray cluster is running; start one with python -m cluster up"):
        command_line(*arguments)


@pytest.mark.parametrize("arguments", [["absent.jsonl"], [ROWS, "--validation", "absent.jsonl"]])
def test_a_file_that_is_not_there_is_named_by_validate(arguments: list[str]) -> None:
    with pytest.raises(DataError, match=r"no file absent\.jsonl; give a path that exists"):
        command_line("validate", *arguments)


def test_more_text_columns_than_two_are_refused_by_validate() -> None:
    with pytest.raises(ConfigError, match=r"text_columns: .*at most 2"):
        command_line("validate", ROWS, "--text-columns", "a,b,c")


def test_a_config_to_plan_may_lie_in_a_store() -> None:
    with pytest.raises(Unavailable, match=r"cannot open nowhere://bucket/run\.yaml"):
        command_line("plan", "nowhere://bucket/run.yaml")


def test_prices_arrive_at_the_plan_by_their_names(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Prices] = []

    def make_plan(_config: object, prices: Prices, *, with_probe: bool) -> dict[str, bool]:
        asked.append(prices)
        return {"probed": with_probe}

    monkeypatch.setattr("training.plan.make_plan", make_plan)
    prices = ["--input-price-per-1k", "1", "--training-price-per-1k", "2", "--price-per-hour", "3"]
    command_line("plan", "examples/bert-paraphrase.yaml", "--no-probe", "--json", *prices)
    (found,) = asked
    assert (found.input_per_1k_tokens, found.training_per_1k_tokens, found.per_worker_hour) == (1, 2, 3)


def test_a_home_that_cannot_be_written_is_told_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr("cluster.settings.Settings.home_dir", tmp_path / "file" / "home")
    with pytest.raises(Unavailable, match=r"cannot write to .*; set HAMLET_HOME to a folder of yours"):
        command_line("plan", "examples/bert-paraphrase.yaml", "--no-probe", "data.hub=null")


def test_a_pause_of_the_run_that_keeps_the_best_of_a_sweep_is_no_fault(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def pause(*_: object, **__: object) -> None:
        raise RunPaused("paused at step 7")

    for name in ("require_address", "prepare_client"):
        monkeypatch.setattr(main, name, lambda: None)
    monkeypatch.setattr("training.sweep.sweep", pause)
    result = CliRunner().invoke(app, ["sweep", "examples/bert-paraphrase.yaml", "--keep-best"])
    assert (result.exit_code, result.stdout) == (143, "paused at step 7\n")
