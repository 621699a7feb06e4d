"""The doctor on this machine, without network or Ray."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from cluster import doctor
from cluster.checks import Level
from cluster.doctor import examine
from cluster.settings import settings


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HAMLET_HUB_OFFLINE", "1")
    settings.cache_clear()


def test_every_question_is_answered(home: Path) -> None:
    names = [finding.name for finding in examine()]
    for name in ("python", "vllm", "settings", "memory", "gpu", "head", "network", "storage", "database"):
        assert name in names
    assert not list((home / "storage").iterdir())  # what was written was deleted


def test_the_processor_is_told_of_where_no_gpu_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "has_gpu", lambda: False)
    monkeypatch.setattr(doctor, "has_bf16", lambda on_gpu: False)
    finding = next(finding for finding in examine() if finding.name == "processor")
    assert "float32" in finding.message
    monkeypatch.setattr(doctor, "has_gpu", lambda: True)
    assert "processor" not in [finding.name for finding in examine()]


def test_a_planted_fault_is_found_and_the_other_questions_are_still_answered(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("HAMLET_STORAGE", str(tmp_path / "file" / "storage"))
    monkeypatch.setenv("HAMLET_DATABASE_URL", "no url")
    monkeypatch.setenv("HAMLET_TYPO", "1")
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        monkeypatch.setenv("HAMLET_RAY_PORT", str(port))
        settings.cache_clear()
        findings = {finding.name: finding for finding in examine()}
    problems = {name for name, finding in findings.items() if finding.level is Level.PROBLEM}
    assert {"storage", "database", f"port {port}"} <= problems
    assert "Not a directory" in findings["storage"].message
    assert "HAMLET_STORAGE" in findings["storage"].remedy
    assert findings["settings"].level is Level.WARNING
    assert "HAMLET_DATABASE_URL" in findings["database"].message
