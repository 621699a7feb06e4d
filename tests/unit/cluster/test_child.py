"""Programs of this checkout in processes of their own."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.child import run_module


def test_a_module_is_found_from_any_folder_and_its_output_is_kept_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "cluster").mkdir()  # another package of the same name, which python -m would take first
    (tmp_path / "cluster" / "__init__.py").touch()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    done = run_module("cluster.gguf", tmp_path / "none.gguf", tmp_path / "folder")
    assert done.returncode == 1
    assert "none.gguf" in done.stderr
    assert capfd.readouterr() == ("", "")
