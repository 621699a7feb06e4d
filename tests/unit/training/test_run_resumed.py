from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from cluster.cards import ModelCard
from cluster.errors import Conflict
from cluster.registry import Registry
from cluster.settings import settings
from training import run as training_run
from training.checkpoints import folder_name, mark_complete
from training.config import FinetuneConfig
from training.run import Identity, RunPaused, run
from training.run_folder import RunFolder
from training.sources import Census

JOB = "ftjob-0123456789abcdef"


class ToldRun(training_run._Run):
    """A run whose record is a list, and which ends where it would train."""

    def __init__(self, config: FinetuneConfig, identity: Identity, prepared: Any, _: object) -> None:
        self._config, self._identity, self._prepared = config, identity, prepared
        self._record: Any = SimpleNamespace(say=lambda text, level: told.append((level, text)))

    def _train(self, checkpoint: object) -> Any:
        raise RunPaused


told: list[tuple[str, str]] = []


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FinetuneConfig:
    monkeypatch.setenv("HAMLET_HOME", str(tmp_path))
    settings.cache_clear()
    told.clear()
    monkeypatch.setattr(training_run, "_Run", ToldRun)
    monkeypatch.setattr(training_run, "connect", lambda: None)
    dataset = SimpleNamespace(train=[], validation=[], notices=())
    rows = SimpleNamespace(description="rows", census=Census(1, 1, "5e"))
    prepared = SimpleNamespace(dataset=dataset, rows=rows)
    monkeypatch.setattr(training_run, "prepare", lambda _config: prepared)
    data = {"path": "rows.jsonl"}
    return FinetuneConfig.model_validate({"name": "t", "task": "sft", "model": "m", "data": data})


def checkpoint(identity: Identity, step: int, config: FinetuneConfig | None) -> None:
    """One with its marker when `config` is given."""
    folder = Path(identity.run_uri) / "attempt-a" / folder_name(step)
    folder.mkdir(parents=True)
    (folder / "weights").write_text("x")
    if config is not None:
        mark_complete(
            str(folder), step=step, world_size=1, config=config.model_dump(mode="json"), data_sha256=None
        )


@pytest.mark.parametrize("has_older", [False, True])
def test_a_job_whose_checkpoints_are_damaged_says_so_in_its_events(
    config: FinetuneConfig, has_older: bool
) -> None:
    identity = Identity(JOB, "ft:m:t:x:1", JOB, resumes=True)
    checkpoint(identity, 10, None)
    if has_older:
        checkpoint(identity, 8, config)
    with pytest.raises(RunPaused):
        run(config, identity)
    warned = [text for level, text in told if level == "warn"]
    assert warned[0] == "the checkpoint attempt-a/step-00000010 is not complete and is passed over"
    assert warned[1:] == ([] if has_older else ["no checkpoint is complete: the run begins anew"])


@pytest.mark.parametrize(("job", "is_told"), [(None, True), (JOB, False)])
def test_a_run_that_is_resumed_without_a_checkpoint_says_that_it_begins_anew(
    config: FinetuneConfig, job: str | None, is_told: bool
) -> None:
    with pytest.raises(RunPaused):
        run(config, Identity("early", "ft:m:t:x:1", job, resumes=True))
    assert (("warn", "no checkpoint is complete: the run begins anew") in told) is is_told


def test_an_alias_as_the_base_is_the_model_that_it_named_when_the_run_began(
    config: FinetuneConfig, make_card: Callable[..., ModelCard]
) -> None:
    first, second = (f"ft:smollm2:me:support:{number}" for number in (1, 2))
    for card_id in (first, second):
        Registry().register(make_card(id=card_id))
    Registry().promote("support", first)
    by_alias = config.model_copy(update={"model": "support"})
    identity = Identity(JOB, "ft:support:t:x:1", JOB, resumes=True)
    with pytest.raises(RunPaused):
        run(by_alias, identity)
    written = RunFolder(JOB).path / "config.yaml"
    begun = FinetuneConfig.model_validate(yaml.safe_load(written.read_text()))
    assert begun.model == first
    checkpoint(identity, 8, begun)
    Registry().promote("support", second)
    with pytest.raises(Conflict, match=f"model was '{first}' and is '{second}'"):
        run(by_alias, identity)
    assert yaml.safe_load(written.read_text())["model"] == first
