"""Programs of this checkout in processes of their own."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.child import run_module
from cluster.local_run import EXIT_CODE


def test_a_module_is_found_from_any_folder_and_its_output_is_kept_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "cluster").mkdir()  # another package of the same name, which python -m would take first
    (tmp_path / "cluster" / "__init__.py").touch()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    done = run_module("cluster.local_run", elsewhere, "true")
    assert done.returncode == 0, done.stderr
    assert (elsewhere / EXIT_CODE).read_text() == "0"
    done = run_module("cluster.local_run", tmp_path / "none", "true")
    assert "none" in done.stderr
    assert capfd.readouterr() == ("", "")
