"""The versions that images are built with, from what pip says it would install."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from cluster import constraints

REPORT = {
    "install": [
        {"metadata": {"name": "torch", "version": "2.13.0+cpu"}},
        {"metadata": {"name": "PyYAML", "version": "6.0.3"}},
    ]
}


def test_constraints_leave_out_which_build_it_is_and_pip_is_asked_for_what_images_add() -> None:
    assert constraints.versions(REPORT) == ["pyyaml==6.0.3", "torch==2.13.0"]
    project = {
        "dependencies": ["a>=1"],
        "optional-dependencies": {"services": ["b"], "tracing": ["c"], "qlora": ["d"], "test": ["e"]},
    }
    assert constraints.requirements(project)[1:] == ["a>=1", "b", "c", "d"]


def test_a_pip_that_fails_leaves_the_file_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constraints, "FILE", tmp_path / "constraints.txt")

    def pip(returncode: int, told: str) -> None:
        done = subprocess.CompletedProcess([], returncode, told)
        monkeypatch.setattr(subprocess, "run", lambda *_, **__: done)

    pip(0, json.dumps(REPORT))
    assert constraints.main() == 0
    written = constraints.FILE.read_text()
    assert written.endswith("\npyyaml==6.0.3\ntorch==2.13.0\n")
    pip(1, "")
    assert constraints.main() == 1
    assert constraints.FILE.read_text() == written
