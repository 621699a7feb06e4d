"""What a run refuses before anything is started; whole runs are in tests/integration/training."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from cluster.cards import ModelCard, Parity
from cluster.errors import Conflict, InvalidInput, JobFailed, NotFound
from cluster.registry import Registry
from training import model_card
from training import run as run_module
from training.checkpoints import folder_name, mark_complete
from training.config import FinetuneConfig, Precision
from training.examples import Dataset, Examples
from training.loop_state import LoopResult
from training.prepare import Prepared
from training.run import Identity, identity_of, run
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


def test_what_a_run_leaves_in_its_folder_are_its_figures_and_a_readme(
    ended: run_module._Run, monkeypatch: pytest.MonkeyPatch, make_card: Callable[..., ModelCard]
) -> None:
    folder = RunFolder(IDENTITY.run_name).path
    folder.mkdir(parents=True)
    ended._write_folder(make_card(), RESULT, [])
    assert json.loads((folder / "measured.json").read_text())["steps"] == 8
    assert (folder / "README.md").read_text().startswith(f"# {make_card().id}")
    assert not (folder / "report.json").exists()
    result = replace(RESULT, confusion={"ham": {"spam": 1}})
    ended._write_folder(make_card(labels=("ham", "spam")), result, [])
    assert json.loads((folder / "report.json").read_text())["confusion"] == {"ham": {"spam": 1}}


@pytest.mark.parametrize("name", ["a/b", "../a", "/tmp/a", ".", "-a", "a b", "a\n", "x" * 101])
def test_a_name_that_would_lie_elsewhere_than_its_run_is_refused(config: FinetuneConfig, name: str) -> None:
    with pytest.raises(InvalidInput, match="cannot name a run; write up to 100 letters") as caught:
        identity_of(config, run_name=name)
    assert caught.value.param == "run"
    assert identity_of(config, run_name="Llama-3.2_b").run_name == "Llama-3.2_b"


def test_a_name_of_a_run_that_was_used_before_is_refused(config: FinetuneConfig, home: Path) -> None:
    begun = RunFolder("mine")
    begun.open(config)
    begun.close()
    with pytest.raises(Conflict, match="the run mine exists already; go on with it by --resume mine, or"):
        identity_of(config, run_name="mine")
    # Also where its folder was on another machine, by what it left in storage.
    with pytest.raises(Conflict, match="the run t-1 exists already"):
        identity_of(config, run_name=IDENTITY.run_name)
    fresh = identity_of(config, run_name="other")
    assert (fresh.run_name, fresh.resumes, fresh.job_id) == ("other", False, None)


def test_only_a_run_with_a_complete_checkpoint_can_be_resumed(config: FinetuneConfig) -> None:
    with pytest.raises(NotFound, match="the run never has no complete checkpoint in"):
        identity_of(config, resume="never")
    found = identity_of(config, resume=IDENTITY.run_name)
    assert (found.run_name, found.resumes, found.job_id) == (IDENTITY.run_name, True, None)


def test_a_run_that_was_ended_before_its_first_checkpoint_can_be_resumed(config: FinetuneConfig) -> None:
    begun = RunFolder("early")
    begun.open(config)
    begun.close()
    with pytest.raises(Conflict, match="go on with it by --resume early"):
        identity_of(config, run_name="early")
    assert identity_of(config, resume="early").run_name == "early"


def test_a_job_has_the_same_names_each_time_and_other_runs_never(config: FinetuneConfig) -> None:
    job = "ftjob-0123456789abcdef"
    one, other = (identity_of(config, job=job) for _ in range(2))
    assert one == other
    assert (one.run_name, one.job_id, one.resumes) == (job, job, True)
    assert one.model_id == "ft:smollm2:hamlet:tuned:89abcdef"
    names = {(found.run_name, found.model_id) for found in (identity_of(config) for _ in range(2))}
    assert len(names) == 2
    assert all(name.startswith("t-") for name, _ in names)
