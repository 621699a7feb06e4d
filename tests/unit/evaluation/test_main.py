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
from cluster.errors import ConfigError, HamletError, NotFound, Unavailable
from cluster.registry import Registry
from cluster.router_policy import read_policy
from cluster.tenants import DEFAULT_TENANT
from evaluation import __main__ as evaluation

MakeCard = Callable[..., ModelCard]

QUESTIONS = Path(__file__).parents[3] / "examples" / "handbook" / "test.jsonl"


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


def test_a_score_asks_with_the_key_that_it_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    ApiKeys().create(DEFAULT_TENANT, DEFAULT_SCOPES, "", None)
    monkeypatch.setenv("OPENAI_API_KEY", "mine")
    assert score(monkeypatch) == "mine"
    assert len(ApiKeys().list()) == 1


ROUTES = {"id": "ft:minilm:acme:routes:1", "labels": ("plain", "rag")}


def promote(folder: Path, *arguments: str) -> BaseException | None:
    """What promoting the cell `rag` of a comparison in `folder` raised."""
    policy = {"grounded_route": "rag", "score_threshold": 0.4}
    (folder / "results.json").write_text(json.dumps({"policies": {"rag": policy}, "winner": "rag"}))
    return CliRunner().invoke(evaluation.app, ["promote", str(folder), *arguments]).exception


def test_a_classifier_of_routes_is_promoted_with_the_winner(tmp_path: Path, make_card: MakeCard) -> None:
    registry = Registry()
    registry.register(make_card(**ROUTES))
    registry.promote("routes", "ft:minilm:acme:routes:1")
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
