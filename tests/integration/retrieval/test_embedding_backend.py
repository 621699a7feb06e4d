"""Which library computes an embedding model, and that the answer is remembered."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cluster.references import resolve_model
from cluster.settings import settings
from retrieval import embedding_backend
from retrieval.embedding_backend import CHOICE_FILE, load_sentence_model, sample_batches
from retrieval.openvino_sentence_model import OpenVinoSentenceModel
from retrieval.torch_sentence_model import TorchSentenceModel

REPOSITORY = Path(__file__).parents[3]


@pytest.fixture
def folder(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The built-in model, and a cache without it."""
    found = resolve_model("builtin:minilm")
    monkeypatch.setenv("HAMLET_HOME", str(home / "fresh"))
    monkeypatch.setattr(embedding_backend, "NUM_ROUNDS", 1)
    settings.cache_clear()
    return found


def choose(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is measured, this is the faster one."""
    monkeypatch.setattr(embedding_backend, "faster", lambda _seconds: name)


def remembered() -> list[Path]:
    return list((settings().cache_dir / "embedders").iterdir())


def test_both_are_measured_and_the_faster_one_is_loaded_again_without_the_other(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    choose("openvino", monkeypatch)
    first = load_sentence_model(folder, "fingerprint")
    [place] = remembered()
    choice = json.loads((place / CHOICE_FILE).read_text())
    assert choice["backend"] == "openvino"
    assert choice["seconds"].keys() == {"torch", "openvino"}
    assert all(seconds > 0 for seconds in choice["seconds"].values())

    monkeypatch.setattr(embedding_backend, "_load_torch", lambda _folder: pytest.fail("torch was loaded"))
    again = load_sentence_model(folder, "fingerprint")
    assert isinstance(first, OpenVinoSentenceModel)
    assert isinstance(again, OpenVinoSentenceModel)
    assert again.info == first.info
    for batch in sample_batches(first.info):
        assert again.vectors(*batch) == pytest.approx(first.vectors(*batch), abs=1e-3)


def test_torch_stays_where_it_is_the_faster_one(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    choose("torch", monkeypatch)
    assert isinstance(load_sentence_model(folder, "fingerprint"), TorchSentenceModel)
    monkeypatch.setattr(embedding_backend, "_choose", lambda *_: pytest.fail("measured again"))
    assert isinstance(load_sentence_model(folder, "fingerprint"), TorchSentenceModel)


def test_a_setting_keeps_torch(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HAMLET_EMBEDDER_BACKEND", "torch")
    settings.cache_clear()
    assert isinstance(load_sentence_model(folder, "fingerprint"), TorchSentenceModel)
    assert not (settings().cache_dir / "embedders").exists()


def test_a_model_that_cannot_be_converted_is_computed_by_torch(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def convert(*_: Any) -> None:
        raise RuntimeError("no such operation")

    monkeypatch.setattr("retrieval.openvino_sentence_model.convert", convert)
    assert isinstance(load_sentence_model(folder, "fingerprint"), TorchSentenceModel)
    assert "no such operation" in caplog.text


def test_a_conversion_that_computes_something_else_is_not_used(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def vectors(_model: Any, input_ids: np.ndarray, _mask: np.ndarray) -> np.ndarray:
        return np.eye(len(input_ids), 384, dtype=np.float32)

    monkeypatch.setattr(OpenVinoSentenceModel, "vectors", vectors)
    assert isinstance(load_sentence_model(folder, "fingerprint"), TorchSentenceModel)
    assert "off; torch computes it" in caplog.text


def test_only_the_last_used_conversions_are_kept(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    choose("openvino", monkeypatch)
    monkeypatch.setattr(embedding_backend, "NUM_KEPT", 2)
    load_sentence_model(folder, "first")
    for number, name in enumerate(("first", "second")):
        target = settings().cache_dir / "embedders" / name
        shutil.copytree(remembered()[0], target)
        os.utime(target, (number, number))
    load_sentence_model(folder, "third")
    names = sorted(path.name.rsplit("-", 1)[0] for path in remembered())
    assert names == ["first", "third"]
    assert not (settings().cache_dir / "embedders" / "first").exists()


def test_a_remembered_model_needs_no_torch_and_tells_nobody_of_it(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    choose("openvino", monkeypatch)
    load_sentence_model(folder, "fingerprint")
    program = f"""
import sys
from pathlib import Path
from retrieval.embedding_backend import load_sentence_model, sample_batches
model = load_sentence_model(Path({str(folder)!r}), "fingerprint")
print(len([model.vectors(*batch) for batch in sample_batches(model.info)]))
print(sorted({{"torch", "transformers", "openvino"}} & set(sys.modules)))
print(sys.modules["openvino_telemetry"])
"""
    environment = {**os.environ, "HOME": str(tmp_path), "HAMLET_HOME": str(settings().home)}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, cwd=REPOSITORY, capture_output=True, text=True
    )
    assert done.stdout.splitlines() == ["4", "['openvino']", "None"], done.stderr
    assert not (tmp_path / "intel").exists()  # where its reports would be kept
