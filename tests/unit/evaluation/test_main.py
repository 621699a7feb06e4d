"""`python -m evaluation score`, without a service: what it asks with."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cluster.api_keys import DEFAULT_SCOPES, DEFAULT_TENANT, ApiKeys
from cluster.errors import Unavailable
from evaluation import __main__ as evaluation

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
