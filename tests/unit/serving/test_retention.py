"""What has had its time goes, and nothing else."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from cluster.batch_records import BatchRequest
from cluster.batches import Batches
from cluster.blobs import staging_path
from cluster.cards import ModelCard
from cluster.errors import Unavailable
from cluster.files import File, Files
from cluster.fine_tuning_jobs import FineTuningJobs
from cluster.registry import Registry
from cluster.storage import delete_folder
from serving.retention import WEIGHTS_GRACE_S, Retention


def expiring(files: Files) -> File:
    return files.add(files.stored("us", "rows.jsonl", "batch", b"rows", expires_at=1_000_000.0))


def test_a_file_is_kept_for_a_batch_that_is_made_just_before_it_expires(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [999_999.0]
    files, batches = Files(clock=lambda: now[0]), Batches()
    file, in_use = expiring(files), batches.files_in_use

    def made_meanwhile() -> set[str]:
        found = in_use()
        if now[0] < 1_000_000:
            batches.create("us", BatchRequest("key", "/v1/embeddings", file.id, file.uri, 3600))
            now[0] += 1
        return found

    monkeypatch.setattr(batches, "files_in_use", made_meanwhile)
    retention = Retention(files, FineTuningJobs(), batches, Registry())
    retention.apply()
    assert files.is_kept("us", file.id)
    retention.apply()
    assert files.is_kept("us", file.id)


def test_what_cannot_be_removed_yet_holds_up_nothing_else(
    make_card: Callable[..., ModelCard], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def out_of_reach(uri: str) -> None:
        if uri == "away":
            raise Unavailable("cannot delete away (no answer)")
        delete_folder(uri)

    monkeypatch.setattr("serving.retention.delete_folder", out_of_reach)
    now: list[float] = [0.0]
    registry, folders = Registry(clock=lambda: now[0]), []
    for name in ("away", str(home / "weights")):
        card = make_card(f"ft:smollm2:acme:{len(folders)}:1", weights_uri=name)
        registry.register(card)
        registry.delete(card.id)
        folders.append(Path(name))
    folders[1].mkdir()
    (staged := staging_path()).touch()
    os.utime(staged, (0, 0))
    now[0] += WEIGHTS_GRACE_S
    Retention(Files(), FineTuningJobs(), Batches(), registry).apply()
    assert registry.retired_weights() == ["away"]  # tried again with the next round
    assert not folders[1].exists()
    assert not staged.exists()
