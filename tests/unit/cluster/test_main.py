"""`python -m cluster`, its commands that need no Ray."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cluster.__main__ import app
from cluster.cards import ModelCard
from cluster.errors import HamletError, NotFound
from cluster.registry import Registry
from cluster.settings import settings
from cluster.storage import folder_exists, upload_folder

runner = CliRunner()


@pytest.fixture
def registered(tmp_path: Path, make_card: Callable[..., ModelCard]) -> ModelCard:
    weights = tmp_path / "model"
    weights.mkdir()
    (weights / "model.safetensors").touch()
    card = make_card(weights_uri=upload_folder(weights, str(tmp_path / "storage")), metrics={"f1": 0.8512})
    Registry().register(card)
    return card


def test_models_are_listed_with_aliases_and_metrics(registered: ModelCard) -> None:
    Registry().promote("live", registered.id)
    result = runner.invoke(app, ["models", "list"])
    names, figures, built_in = result.stdout.splitlines()
    assert names.split("  ")[0] == registered.id
    assert names.endswith("live")
    assert "classifier" in names
    assert figures.split() == ["builtin:minilm", "f1", "0.8512"]
    assert "builtin:smollm2" in built_in


def test_long_names_and_many_figures_of_models_are_not_cut(make_card: Callable[..., ModelCard]) -> None:
    figures = {f"figure_{number}": number / 7 for number in range(20)}
    card = make_card(id=f"ft:{'m' * 60}:hamlet:{'s' * 40}:0a1b2c3d", metrics=figures)
    Registry().register(card)
    names, shown, _ = runner.invoke(app, ["models", "list"]).stdout.splitlines()
    assert names.startswith(f"{card.id}  ")
    assert shown.count("figure_") == 20


def test_a_card_is_shown_as_json(registered: ModelCard) -> None:
    shown = runner.invoke(app, ["models", "show", registered.id]).stdout
    assert ModelCard.model_validate(json.loads(shown)) == registered


def test_promoting_prints_what_the_alias_meant_before(registered: ModelCard) -> None:
    first = runner.invoke(app, ["models", "promote", "live", registered.id]).stdout
    assert first == f"live -> {registered.id} (before: nothing)\n"
    again = runner.invoke(app, ["models", "promote", "live", registered.id]).stdout
    assert f"before: {registered.id}" in again


def test_deleting_removes_card_and_weights(registered: ModelCard) -> None:
    result = runner.invoke(app, ["models", "delete", registered.id, "--yes"])
    assert result.exit_code == 0
    assert not folder_exists(registered.weights_uri)
    with pytest.raises(NotFound):
        Registry().get(registered.id)


def test_deleting_asks_first_and_no_means_no(registered: ModelCard) -> None:
    result = runner.invoke(app, ["models", "delete", registered.id], input="n\n")
    assert result.exit_code == 1
    assert registered.weights_uri in result.output
    assert Registry().get(registered.id) == registered
    assert folder_exists(registered.weights_uri)


def test_weights_that_cannot_be_deleted_are_named_and_the_card_is_gone(
    registered: ModelCard, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise PermissionError("read-only")

    monkeypatch.setattr("cluster.storage._remove", fail)
    result = runner.invoke(app, ["models", "delete", registered.id, "--yes"])
    assert isinstance(result.exception, HamletError)
    assert registered.weights_uri in str(result.exception)
    assert Registry().list() == []


def test_status_without_a_head_says_how_to_start_one_and_exits_1() -> None:
    result = runner.invoke(app, ["status"])
    assert result.exit_code == 1
    assert "python -m cluster up" in result.stdout


def test_status_asks_the_cluster_that_the_environment_names(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = {
        "/api/v0/nodes": {"data": {"result": {"result": [{"node_ip": "10.0.0.2", "state": "ALIVE"}]}}},
        "/api/jobs/": [
            {"submission_id": "hamlet-1", "status": "RUNNING", "entrypoint": "python x.py"},
            {"submission_id": None, "job_id": "07000000", "status": "SUCCEEDED", "entrypoint": "python y.py"},
        ],
        "/api/serve/applications/": {"applications": {"hamlet": {"status": "RUNNING"}}},
    }

    def get(url: str, path: str, _timeout_s: float = 5.0) -> object:
        assert url == "http://10.0.0.1:8265"
        return answers[path]

    monkeypatch.setattr("cluster.dashboard.get", get)
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://10.0.0.1:8265")
    result = runner.invoke(app, ["status"])
    assert result.exit_code == 0, result.output
    jobs = ("hamlet-1  RUNNING", "07000000  SUCCEEDED")
    for text in ("http://10.0.0.1:8265", "10.0.0.2  ALIVE", *jobs, "hamlet  RUNNING"):
        assert text in result.stdout


def test_down_without_a_head_is_no_error() -> None:
    result = runner.invoke(app, ["down"])
    assert result.exit_code == 0
    assert result.stdout == "No Ray head is running.\n"


def test_the_doctor_exits_1_when_it_finds_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HAMLET_HUB_OFFLINE", "1")
    settings.cache_clear()
    before = runner.invoke(app, ["doctor", "--json"])
    levels = _levels(before.stdout)  # what else runs on this machine, a Ray head perhaps, is not ours to say
    assert levels["database"] != "problem"
    assert before.exit_code == int("problem" in levels.values())
    monkeypatch.setenv("HAMLET_DATABASE_URL", "nonsense")
    settings.cache_clear()
    result = runner.invoke(app, ["doctor", "--json"])
    assert result.exit_code == 1
    assert _levels(result.stdout)["database"] == "problem"
    assert "problem" in runner.invoke(app, ["doctor"]).stdout


def _levels(findings: str) -> dict[str, str]:
    return {finding["name"]: finding["level"] for finding in json.loads(findings)}
