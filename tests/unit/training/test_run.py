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
from training.sources import load_rows


def test_a_run_whose_rows_changed_is_refused_and_keeps_all_its_checkpoints(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(f'{{"text": "row {number}"}}\n' for number in range(60)))
    values = {"name": "t", "task": "sft", "model": "builtin:smollm2", "data": {"path": str(file)}}
    config = FinetuneConfig.model_validate(values)
    identity = Identity("t-1", "ft:smollm2:me:t:1", resumes=True)
    for step in (8, 16):
        folder = Path(identity.run_uri) / "attempt-a" / folder_name(step)
        folder.mkdir(parents=True)
        mark_complete(
            str(folder),
            step=step,
            world_size=1,
            config=config.model_dump(mode="json"),
            data_sha256=load_rows(config.data).census.sha256,
        )
    with file.open("a") as opened:
        opened.write('{"text": "one more"}\n')
    monkeypatch.setattr(run_module, "prepare", lambda config: SimpleNamespace(rows=load_rows(config.data)))
    with pytest.raises(Conflict, match="the run was begun on other rows"):
        run(config, identity)
    assert len(list(Path(identity.run_uri).glob("*/*/complete.json"))) == 2
