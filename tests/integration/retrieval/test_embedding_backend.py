"""Which library computes an embedding model, and that the answer is remembered."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import ray

from cluster.references import resolve_model
from cluster.settings import settings
from retrieval import embedding_backend
from retrieval.embedding_backend import CHOICE_FILE, choose, faster, load_sentence_model, sample_batches
from retrieval.openvino_sentence_model import OpenVinoSentenceModel, machine
from retrieval.sentence_model import SentenceModel
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


def place(fingerprint: str) -> Path:
    return settings().cache_dir / "embedders" / f"{fingerprint}-{machine()}"


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the first test that needs a conversion leaves it for the others, which take copies."""
    return tmp_path_factory.mktemp("conversions") / "minilm"


@pytest.fixture
def remember(folder: Path, converted: Path) -> Callable[[str, str], None]:
    """`remember("openvino", "some")`: what `load_sentence_model` finds when that library was the faster one."""

    def write(name: str, fingerprint: str) -> None:
        if not converted.exists():
            choose(folder, converted)
        shutil.copytree(converted, place(fingerprint))
        choice = place(fingerprint) / CHOICE_FILE
        choice.write_text(json.dumps(json.loads(choice.read_text()) | {"backend": name}))

    return write


def forbid(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding_backend, name, lambda *_: pytest.fail(f"{name} was called"))


def test_a_model_is_converted_and_measured_at_its_first_load_and_never_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = load_sentence_model(folder, "some")
    choice = json.loads((place("some") / CHOICE_FILE).read_text())
    assert choice["seconds"].keys() == {"torch", "openvino"}
    assert all(seconds > 0 for seconds in choice["seconds"].values())
    assert choice["backend"] == faster(choice["seconds"])

    forbid("_choose_in_child", monkeypatch)
    again = load_sentence_model(folder, "some")
    assert type(again) is type(first)
    assert again.info == first.info
    for batch in sample_batches(first.info):
        assert again.vectors(*batch) == pytest.approx(first.vectors(*batch), abs=1e-3)


@pytest.mark.parametrize(
    ("name", "kind"), [("torch", TorchSentenceModel), ("openvino", OpenVinoSentenceModel)]
)
def test_the_faster_one_is_loaded(
    name: str, kind: type[SentenceModel], folder: Path, remember: Callable[[str, str], None]
) -> None:
    remember(name, "some")
    assert isinstance(load_sentence_model(folder, "some"), kind)


def test_a_setting_keeps_torch(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HAMLET_EMBEDDER_BACKEND", "torch")
    settings.cache_clear()
    assert isinstance(load_sentence_model(folder, "some"), TorchSentenceModel)
    assert not place("some").parent.exists()


def test_a_model_that_cannot_be_converted_is_computed_by_torch_and_not_tried_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")  # for every way in which that process may end
    assert isinstance(load_sentence_model(folder, "some"), TorchSentenceModel)
    assert "torch does: exit code 1" in caplog.text
    forbid("_choose_in_child", monkeypatch)
    assert isinstance(load_sentence_model(folder, "some"), TorchSentenceModel)


def test_a_conversion_that_was_killed_for_memory_is_tried_again(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed = tmp_path / "killed"
    killed.write_text("#!/bin/sh\nkill -KILL $$\n")
    killed.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(killed))
    assert isinstance(load_sentence_model(folder, "some"), TorchSentenceModel)
    assert not place("some").exists()


def test_a_cache_that_cannot_be_written_leaves_torch(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place("some").parent.parent.mkdir(parents=True)
    place("some").parent.write_text("a file where a folder should be")
    monkeypatch.setattr(sys, "executable", "/bin/false")
    assert isinstance(load_sentence_model(folder, "some"), TorchSentenceModel)


def test_a_conversion_that_computes_something_else_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def vectors(_model: object, input_ids: np.ndarray, _mask: np.ndarray) -> np.ndarray:
        return np.eye(len(input_ids), 384, dtype=np.float32)

    monkeypatch.setattr(OpenVinoSentenceModel, "vectors", vectors)
    with pytest.raises(ValueError, match=r"its vectors are [01]\.\d+ off"):
        choose(folder, place("some"))
    assert not place("some").exists()


def test_only_the_last_used_conversions_are_kept(
    folder: Path, remember: Callable[[str, str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedding_backend, "NUM_KEPT", 2)
    for age, fingerprint in enumerate(("used", "oldest")):
        remember("openvino", fingerprint)
        os.utime(place(fingerprint), (1e9 - age, 1e9 - age))
    load_sentence_model(folder, "used")
    choose(folder, place("newest"))
    assert {path.name for path in place("used").parent.iterdir()} == {
        place("used").name,
        place("newest").name,
    }


@pytest.mark.parametrize("allocator", ["glibc", "jemalloc"])
def test_a_remembered_model_needs_no_torch_and_tells_nobody_of_it(
    allocator: str, folder: Path, tmp_path: Path, remember: Callable[[str, str], None]
) -> None:
    remember("openvino", "some")
    program = f"""
import sys
from collections.abc import Callable
from pathlib import Path
from retrieval.embedding_backend import load_sentence_model, sample_batches
model = load_sentence_model(Path({str(folder)!r}), "some")
print(len([model.vectors(*batch) for batch in sample_batches(model.info)]))
print(sorted({{"torch", "transformers", "openvino"}} & set(sys.modules)))
print(sys.modules["openvino_telemetry"])
"""
    environment = {**os.environ, "HOME": str(tmp_path), "HAMLET_HOME": str(settings().home)}
    if allocator == "jemalloc":  # as Ray preloads it in workers
        environment["LD_PRELOAD"] = str(Path(ray.__file__).with_name("core") / "libjemalloc.so")
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, cwd=REPOSITORY, capture_output=True, text=True
    )
    assert done.stdout.splitlines() == ["4", "['openvino']", "None"], done.stderr
    assert not (tmp_path / "intel").exists()  # where its reports would be kept
