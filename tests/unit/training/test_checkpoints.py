from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cluster.errors import Conflict, JobFailed, Unavailable
from training.checkpoints import (
    MARKER,
    CheckpointMarker,
    delete_others,
    folder_name,
    mark_complete,
    newest_complete,
    require_same_files,
    require_same_rows,
    require_same_run,
    wait_for_step,
)
from training.config import FinetuneConfig


def config_of(**changes: Any) -> FinetuneConfig:
    values = {"name": "t", "task": "sft", "model": "builtin:smollm2", "data": {"path": "rows.jsonl"}}
    return FinetuneConfig.model_validate(values | changes)


def saved(config: FinetuneConfig, world_size: int = 2) -> CheckpointMarker:
    return CheckpointMarker(
        step=10, world_size=world_size, config=config.model_dump(mode="json"), files={"weights": 8}
    )


def checkpoint(run: Path, attempt: str, step: int, *, complete: bool = True) -> Path:
    folder = run / attempt / folder_name(step)
    (folder / "state").mkdir(parents=True)
    (folder / "state" / "weights.pt").write_bytes(b"w" * 100)
    (folder / "progress.json").write_text("{}")
    if complete:
        mark_complete(str(folder), step=step, world_size=2, config={"epochs": 3}, data_sha256="5e")
    return folder


def test_a_store_that_does_not_answer_is_unavailable(store_away: str) -> None:
    run = f"{store_away}/runs/one"
    for verb in (
        lambda: mark_complete(run, step=1, world_size=1, config={}, data_sha256=None),
        lambda: newest_complete(run),
        lambda: wait_for_step(run, 1),
        lambda: delete_others(run, None),
    ):
        with pytest.raises(Unavailable, match="no answer"):
            verb()


def test_a_run_that_never_began_has_none(tmp_path: Path) -> None:
    assert newest_complete(str(tmp_path / "none")) == (None, [])


def test_the_checkpoint_with_the_most_steps_is_found_whichever_attempt_made_it(tmp_path: Path) -> None:
    checkpoint(tmp_path, "attempt-b", 8)
    newest = checkpoint(tmp_path, "attempt-a", 12)
    found, passed_over = newest_complete(str(tmp_path))
    assert found is not None
    assert (found.uri, found.marker.step, passed_over) == (str(newest), 12, [])
    assert found.marker.files == {"progress.json": 2, "state/weights.pt": 100}


@pytest.mark.parametrize("damage", ["unmarked", "cut", "lost", "marker cut", "empty"])
def test_a_checkpoint_that_is_not_whole_is_passed_over_by_name(tmp_path: Path, damage: str) -> None:
    whole = checkpoint(tmp_path, "attempt-a", 8)
    newer = checkpoint(tmp_path, "attempt-a", 10, complete=damage != "unmarked")
    weights = newer / "state" / "weights.pt"
    if damage == "cut":
        weights.write_bytes(b"w" * 50)
    elif damage == "lost":
        (newer / "progress.json").unlink()
    elif damage == "marker cut":
        (newer / MARKER).write_text((newer / MARKER).read_text()[:20])
    elif damage == "empty":
        (newer / MARKER).write_text("")
    found, passed_over = newest_complete(str(tmp_path))
    assert found is not None
    assert found.uri == str(whole)
    assert passed_over == ["attempt-a/step-00000010"]


def test_earlier_attempts_leave_only_the_checkpoint_that_is_gone_on_from(tmp_path: Path) -> None:
    kept = checkpoint(tmp_path, "attempt-a", 10)
    checkpoint(tmp_path, "attempt-a", 8)
    checkpoint(tmp_path, "attempt-b", 5)
    checkpoint(tmp_path, "attempt-a", 12, complete=False)
    delete_others(str(tmp_path), newest_complete(str(tmp_path))[0])
    assert [path for path in sorted(tmp_path.glob("*/*")) if path.is_dir()] == [kept]
    assert not (tmp_path / "attempt-b").exists()


def test_a_run_without_a_complete_checkpoint_begins_in_an_empty_folder(tmp_path: Path) -> None:
    checkpoint(tmp_path, "attempt-a", 4, complete=False)
    delete_others(str(tmp_path), None)
    assert list(tmp_path.iterdir()) == []


def test_the_same_batch_cut_otherwise_is_the_same_run() -> None:
    before = config_of(batch={"micro_batch_size_per_gpu": 1, "gradient_accumulation_steps": 4})
    now = config_of(batch={"micro_batch_size_per_gpu": 4, "gradient_accumulation_steps": 1})
    require_same_run(saved(before), now.model_dump(mode="json"), now.global_batch_size)


def test_other_settings_are_refused_with_both_values() -> None:
    now = config_of(epochs=5, learning_rate=1e-3)
    with pytest.raises(Conflict, match=r"epochs was 3 and is 5; learning_rate was 5e-05 and is 0\.001"):
        require_same_run(saved(config_of()), now.model_dump(mode="json"), now.global_batch_size)


def test_another_global_batch_is_refused_with_both_numbers() -> None:
    now = config_of(batch={"micro_batch_size_per_gpu": 4})
    with pytest.raises(Conflict, match="the global batch was 8 rows and is 4"):
        require_same_run(saved(config_of()), now.model_dump(mode="json"), now.global_batch_size)


def test_patience_may_change_and_go_but_not_come() -> None:
    without, two, three = (config_of(early_stopping_patience=patience) for patience in (None, 2, 3))
    for before, now in ((two, three), (two, without)):
        require_same_run(saved(before), now.model_dump(mode="json"), now.global_batch_size)
    with pytest.raises(Conflict, match="early_stopping_patience was None and is 2; go on with the old"):
        require_same_run(saved(without), two.model_dump(mode="json"), two.global_batch_size)


def test_rows_that_changed_under_the_same_path_are_refused_with_both_digests() -> None:
    marker = saved(config_of()).model_copy(update={"data_sha256": "a" * 64})
    require_same_rows(marker, "a" * 64, "rows.jsonl")
    with pytest.raises(
        Conflict, match=r"other rows: .* was a{16} and is b{16}, read from rows\.jsonl; bring"
    ):
        require_same_rows(marker, "b" * 64, "rows.jsonl")


def test_a_marker_of_an_older_version_knows_no_digest_and_is_gone_on_from() -> None:
    older = saved(config_of()).model_dump(exclude={"data_sha256"})
    require_same_rows(CheckpointMarker.model_validate(older), "b" * 64, "rows.jsonl")


@pytest.mark.parametrize(("before", "now"), [(0, 1), (0, 2), (2, 0), (2, 3), (3, 1), (3, 0)])
def test_a_stage_that_writes_other_files_is_refused_with_both_stages(before: int, now: int) -> None:
    marker = saved(config_of(scaling={"zero_stage": before}), world_size=4)
    with pytest.raises(Conflict, match=f"ZeRO stage {before}, asked stage {now}, .*zero_stage={before}"):
        require_same_files(marker, now)


@pytest.mark.parametrize(("before", "now"), [(1, 2), (2, 1)])
def test_stages_that_write_the_same_files_go_on_from_each_other(before: int, now: int) -> None:
    marker = saved(config_of(scaling={"zero_stage": before}), world_size=4)
    require_same_files(marker, now)


def test_a_checkpoint_that_was_just_saved_is_waited_for_and_found(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path, "attempt-a", 6)
    assert wait_for_step(str(tmp_path), 6) == str(folder)
    with pytest.raises(JobFailed, match="the checkpoint of step 7 is not in"):
        wait_for_step(str(tmp_path), 7, deadline_s=0.0)
