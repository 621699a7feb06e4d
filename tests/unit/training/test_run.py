"""What a run refuses before anything is started; whole runs are in tests/integration/training."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from cluster.errors import Conflict
from training import run as run_module
from training.checkpoints import folder_name, mark_complete
from training.config import FinetuneConfig
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
