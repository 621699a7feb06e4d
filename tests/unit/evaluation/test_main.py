"""`python -m evaluation`, without a service: what `score` asks with, and what `promote` puts in force."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cluster.api_keys import DEFAULT_SCOPES, ApiKeys
from cluster.cards import ModelCard, ModelKind
from cluster.errors import ConfigError, DataError, HamletError, NotFound, Unavailable
from cluster.registry import Registry
from cluster.reports import Reports, ReportStatus
from cluster.router_policy import read_policy
from cluster.tenants import DEFAULT_TENANT
from evaluation import __main__ as evaluation
from evaluation.config import CompareConfig
from serving.authentication import access_of

MakeCard = Callable[..., ModelCard]

QUESTIONS = Path(__file__).parents[3] / "examples" / "handbook" / "test.jsonl"
COMPARISON = str(QUESTIONS.parents[1] / "compare-handbook.yaml")


def command_line(*arguments: str) -> None:
    CliRunner().invoke(evaluation.app, arguments, catch_exceptions=False)


def score(monkeypatch: pytest.MonkeyPatch) -> str | None:
    """The key that the questions would be asked with."""
    seen: list[str | None] = []

    def asked(*_: Any) -> None:
        seen.append(os.environ.get("OPENAI_API_KEY"))
        raise Unavailable("nobody serves here")

    monkeypatch.setattr(evaluation, "ask_all", asked)
    arguments = ["score", "--model", "smollm2+rag", "--questions", str(QUESTIONS)]
    assert isinstance(CliRunner().invoke(evaluation.app, arguments).exception, Unavailable)
    return seen[0]


def test_a_score_makes_a_key_where_keys_are_asked_for_and_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    assert score(monkeypatch) is None
    ApiKeys().create(DEFAULT_TENANT, DEFAULT_SCOPES, "", None)
    secret = score(monkeypatch)
    assert secret
    [_, own] = ApiKeys().list()
    assert secret.endswith(own.hint)
    assert own.revoked_at is not None


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/chat/completions"),
        ("POST", "/v1/vector_stores/vs_handbook/search"),
        ("GET", "/v1/models"),
    ],
)
def test_the_own_key_allows_every_path_that_is_asked(
    monkeypatch: pytest.MonkeyPatch, method: str, path: str
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    keys = ApiKeys()
    keys.create(DEFAULT_TENANT, DEFAULT_SCOPES, "", None)
    with evaluation._own_key(DEFAULT_TENANT):
        [_, own] = keys.list()
    access = access_of(method, path)
    assert access.area is None or own.allows(access.area, access.writes)


def test_the_own_key_is_that_of_the_variable_which_the_configuration_names(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen: list[str | None] = []

    def asked(*_: Any) -> None:
        seen.append(os.environ.get("SERVICE_KEY"))
        raise Unavailable("nobody serves here")

    monkeypatch.setattr(evaluation, "prepare", asked)
    ApiKeys().create(DEFAULT_TENANT, DEFAULT_SCOPES, "", None)
    with pytest.raises(Unavailable):
        command_line("compare", COMPARISON, f"output={tmp_path}", "api_key_env=SERVICE_KEY")
    assert seen[0] is not None
    assert "SERVICE_KEY" not in os.environ


@pytest.mark.parametrize(
    ("arguments", "has_key"),
    [
        ([], True),
        (["--base-url", "https://teacher.example/v1"], False),
        (["--maker", "gaps"], False),
    ],
)
def test_questions_are_made_with_an_own_key_where_our_service_makes_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, arguments: list[str], has_key: bool
) -> None:
    seen: list[bool] = []

    def made(*_: Any) -> None:
        seen.append("OPENAI_API_KEY" in os.environ)
        raise Unavailable("nobody serves here")

    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setattr(evaluation, "passages_of", lambda _: [])
    monkeypatch.setattr(evaluation, "make_questions", made)
    ApiKeys().create(DEFAULT_TENANT, DEFAULT_SCOPES, "", None)
    command = ["questions", str(tmp_path), "--out", str(tmp_path / "chat.jsonl"), *arguments]
    assert isinstance(CliRunner().invoke(evaluation.app, command).exception, Unavailable)
    assert seen == [has_key]
    assert "OPENAI_API_KEY" not in os.environ


def test_a_score_asks_with_the_key_that_it_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    ApiKeys().create(DEFAULT_TENANT, DEFAULT_SCOPES, "", None)
    monkeypatch.setenv("OPENAI_API_KEY", "mine")
    assert score(monkeypatch) == "mine"
    assert len(ApiKeys().list()) == 1


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        (NotFound("no such model"), "no such model"),
        (KeyboardInterrupt(), "interrupted; the same command goes on from here"),
        (KeyError("usage"), "KeyError: 'usage'"),
    ],
)
def test_a_report_never_stays_running_when_its_comparison_has_ended(
    tmp_path: Path, fault: BaseException, told: str
) -> None:
    config = CompareConfig(questions=QUESTIONS, cells={"plain": "m"}, output=tmp_path / "out")

    def end() -> None:
        with evaluation._kept_report(config, DEFAULT_TENANT):
            raise fault

    with pytest.raises(type(fault)):
        end()
    [report] = Reports().list()
    assert (report.status, report.error) == (ReportStatus.FAILED, told)


def test_a_comparison_belongs_to_the_project_that_it_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise NotFound("no such model")

    monkeypatch.setattr(evaluation, "run_comparison", fail)
    config = tmp_path / "compare.yaml"
    config.write_text(
        json.dumps({"questions": str(QUESTIONS), "cells": {"plain": "m"}, "output": str(tmp_path)})
    )
    ended = CliRunner().invoke(evaluation.app, ["compare", str(config), "--project", "acme"])
    assert isinstance(ended.exception, NotFound)
    assert [report.status for report in Reports().list("acme")] == [ReportStatus.FAILED]
    assert Reports().list() == []


ROUTES = {"id": "ft:minilm:acme:routes:1", "labels": ("plain", "rag")}


def promote(folder: Path, *arguments: str) -> BaseException | None:
    """What promoting the cell `rag` of a comparison in `folder` raised."""
    policy = {"grounded_route": "rag", "score_threshold": 0.4}
    (folder / "results.json").write_text(json.dumps({"policies": {"rag": policy}, "winner": "rag"}))
    return CliRunner().invoke(evaluation.app, ["promote", str(folder), *arguments]).exception


def test_a_classifier_of_routes_is_promoted_with_the_winner(tmp_path: Path, make_card: MakeCard) -> None:
    models = Registry()
    models.register(make_card(**ROUTES))
    models.promote("routes", "ft:minilm:acme:routes:1")
    assert promote(tmp_path, "--route-model", "routes") is None
    policy = read_policy()
    assert policy is not None
    assert (policy.route_model, policy.score_threshold) == ("ft:minilm:acme:routes:1", 0.4)


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        (None, NotFound),
        ({"kind": ModelKind.GENERATOR}, ConfigError),
        ({"labels": ("plain", "sports")}, ConfigError),
        ({"is_pair": True}, ConfigError),
    ],
)
def test_what_names_no_routes_is_not_promoted(
    tmp_path: Path, make_card: MakeCard, changes: dict[str, Any] | None, error: type[HamletError]
) -> None:
    if changes is not None:
        Registry().register(make_card(**ROUTES | changes))
    assert isinstance(promote(tmp_path, "--route-model", "ft:minilm:acme:routes:1"), error)
    assert read_policy() is None


def test_an_output_that_cannot_be_written_is_told_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"cannot write .*file/run-id: .*; name a folder of yours"):
        command_line("compare", COMPARISON, f"output={tmp_path / 'file'}")


@pytest.mark.parametrize("url", ["localhost:8000/v1", "127.0.0.1", "http://[bad"])
def test_what_is_no_address_of_a_service_is_refused_before_it_is_asked(url: str) -> None:
    for arguments in (
        ["score", "--model", "m", "--questions", str(QUESTIONS), "--base-url", url],
        ["questions", "docs", "--out", "chat.jsonl", "--base-url", url],
        ["compare", COMPARISON, f"base_url={url}"],
    ):
        with pytest.raises(ConfigError, match=r"is no address of a service|Invalid IPv6"):
            command_line(*arguments)


@pytest.mark.parametrize("content", ["", "[]", '{"policies": {}}', '{"policies": {"a": {}}, "winner": "a"}'])
def test_results_of_something_else_cannot_be_promoted(tmp_path: Path, content: str) -> None:
    (tmp_path / "results.json").write_text(content)
    with pytest.raises(DataError, match=r"the results\.json of .* compare again"):
        command_line("promote", str(tmp_path))


def test_a_model_that_was_deleted_since_is_not_promoted(tmp_path: Path) -> None:
    policy = {"grounded_route": "tuned", "score_threshold": 0.4, "tuned_model": "ft:gone"}
    (tmp_path / "results.json").write_text(json.dumps({"policies": {"tuned": policy}, "winner": "tuned"}))
    with pytest.raises(NotFound, match="no model named 'ft:gone' is registered"):
        command_line("promote", str(tmp_path))
    assert read_policy() is None


def test_what_was_never_compared_cannot_be_promoted(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"is no folder with the results\.json of a comparison"):
        command_line("promote", str(tmp_path))
