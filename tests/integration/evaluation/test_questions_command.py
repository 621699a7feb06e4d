"""`python -m evaluation questions` over real HTTP, against a service whose replies are known; cutting is played."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cluster.errors import DataError, InvalidInput
from evaluation import indexing
from evaluation.__main__ import app

TEXTS = [f"Room {number} is kept by Inger Dahl." for number in (310, 311, 312)]


@pytest.fixture
def command(tmp_path: Path, service: Any, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    rows = [{"document": f"docs/{n}.md", "context": "", "text": text} for n, text in enumerate(TEXTS)]
    monkeypatch.setattr(indexing, "_retrieval", lambda *_: "\n".join(map(json.dumps, rows)))

    def reply(body: dict[str, Any]) -> str:
        text = next(text for text in TEXTS if text in body["messages"][-1]["content"])
        return f"Question: Who is room {text[5:8]} kept by?\nAnswer: Inger Dahl\nQuestion: Cut"

    service.answer = reply
    out = str(tmp_path / "chat.jsonl")
    return [
        "questions",
        str(tmp_path),
        f"--out={out}",
        "--model=m",
        f"--base-url={service.base_url}",
        "--min-pairs=3",
        "--concurrency=1",
    ]


def test_replies_before_an_interruption_are_not_asked_for_again(
    command: list[str], service: Any, tmp_path: Path
) -> None:
    reply = service.answer

    def reply_twice(body: dict[str, Any]) -> str:
        if len(service.asked) == 2:
            service.refusals.append((400, {}))
        return str(reply(body))

    service.answer = reply_twice
    with pytest.raises(InvalidInput, match="refuses"):
        CliRunner().invoke(app, command, catch_exceptions=False)
    service.answer = reply
    result = CliRunner().invoke(app, command, catch_exceptions=False)
    assert "m made 3 pairs from 3 passages of 3 documents; 3 are kept" in result.stdout
    assert len(service.asked) == len(TEXTS)
    rows = [json.loads(line) for line in (tmp_path / "chat.jsonl").read_text().splitlines()]
    assert {row["messages"][0]["content"] for row in rows} == {
        f"Who is room {number} kept by?" for number in (310, 311, 312)
    }
    assert {row["messages"][1]["content"] for row in rows} == {"Inger Dahl"}


def test_too_few_pairs_are_written_to_be_looked_at_and_refused(
    command: list[str], service: Any, tmp_path: Path
) -> None:
    service.answer = lambda _: "I'm ready to help!"
    with pytest.raises(DataError, match=r"m made 0 pairs .* stronger model .* maker gaps"):
        CliRunner().invoke(app, command, catch_exceptions=False)
    assert (tmp_path / "chat.jsonl").read_text() == ""
