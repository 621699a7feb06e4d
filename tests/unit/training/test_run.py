"""What a run refuses before anything is started; whole runs are in tests/integration/training."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from cluster.cards import Parity
from cluster.errors import Conflict, JobFailed
from cluster.registry import Registry
from training import model_card
from training import run as run_module
from training.checkpoints import folder_name, mark_complete
from training.config import FinetuneConfig, Precision
from training.examples import Dataset, Examples
from training.loop_state import LoopResult
from training.prepare import Prepared
from training.run import Identity, run
from training.run_folder import RunFolder
from training.sources import load_rows

IDENTITY = Identity("t-1", "ft:smollm2:me:t:1", resumes=True)


@pytest.fixture
def config(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FinetuneConfig:
    """That of a run which has two complete checkpoints."""
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(f'{{"text": "row {number}"}}\n' for number in range(60)))
    values = {"name": "t", "task": "sft", "model": "builtin:smollm2", "data": {"path": str(file)}}
    config = FinetuneConfig.model_validate(values)
    for step in (8, 16):
        folder = Path(IDENTITY.run_uri) / "attempt-a" / folder_name(step)
        folder.mkdir(parents=True)
        mark_complete(
            str(folder),
            step=step,
            world_size=1,
            config=config.model_dump(mode="json"),
            data_sha256=load_rows(config.data).census.sha256,
        )
    monkeypatch.setattr(run_module, "prepare", lambda config: SimpleNamespace(rows=load_rows(config.data)))
    return config


def num_checkpoints() -> int:
    return len(list(Path(IDENTITY.run_uri).glob("*/*/complete.json")))


def test_a_run_whose_rows_changed_is_refused_and_keeps_all_its_checkpoints(config: FinetuneConfig) -> None:
    with Path(str(config.data.path)).open("a") as opened:
        opened.write('{"text": "one more"}\n')
    with pytest.raises(Conflict, match="the run was begun on other rows"):
        run(config, IDENTITY)
    assert num_checkpoints() == 2


def test_a_run_that_still_runs_is_not_resumed_and_keeps_all_its_checkpoints(config: FinetuneConfig) -> None:
    running = RunFolder(IDENTITY.run_name)
    running.open(config)
    try:
        with pytest.raises(Conflict, match="the run t-1 is running already"):
            run(config, IDENTITY)
    finally:
        running.close()
    assert num_checkpoints() == 2


@pytest.fixture
def ended(config: FinetuneConfig, monkeypatch: pytest.MonkeyPatch) -> run_module._Run:
    """A run whose training has ended, with its export in storage."""
    monkeypatch.setattr(run_module.ray, "put", lambda value: value)
    tokenizer = SimpleNamespace(chat_template=None)
    dataset = Dataset(Examples.of([]), Examples.of([]))
    prepared = Prepared(load_rows(config.data), dataset, tokenizer)
    monkeypatch.setattr(run_module, "prompt_rows", lambda *_: [])
    Path(IDENTITY.export_uri).mkdir(parents=True)
    (Path(IDENTITY.export_uri) / "model.safetensors").write_text("weights")
    return run_module._Run(config, IDENTITY, prepared, RunFolder(IDENTITY.run_name))


RESULT = LoopResult(Precision.FLOAT32, 0.5, {"perplexity": 1.6}, 7, 8, 1.0)


def test_a_model_that_is_not_proven_is_deleted_and_never_registered(
    ended: run_module._Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    unproven = Parity(passed=False, max_metric_difference=1.0, detail="loss differs by 1")
    for name, value in {"_train": RESULT, "_begin_check": None}.items():
        monkeypatch.setattr(ended, name, lambda *_, value=value: value)
    monkeypatch.setattr(run_module.ray, "get", lambda _: unproven)
    monkeypatch.setattr(run_module, "plot_run", lambda *_: [])
    monkeypatch.setattr(run_module, "_opening", lambda *_: "")
    with pytest.raises(JobFailed, match="the model is not registered: loss differs by 1") as caught:
        ended.run(None, [])
    assert caught.value.code == "parity_failed"
    assert not Path(IDENTITY.export_uri).exists()
    assert Registry().list() == []


def test_a_proven_model_has_a_card_with_its_figures(
    ended: run_module._Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_card, "local_folder", Path)
    card = ended._proven(RESULT, Parity(passed=True, max_metric_difference=0.0))
    assert card.metrics == {"validation_loss": 0.5, "perplexity": 1.6}
    assert (card.id, card.trained_tokens) == (IDENTITY.model_id, 7)
    assert list(card.file_sha256) == ["model.safetensors"]
