"""Checkpoints of a run in storage: which are complete, and which one a run goes on from.

A run's folder holds one folder per attempt (a driver that was started), and below it one per checkpoint:
`runs/<run>/<attempt>/step-00000026`. A checkpoint counts once its marker is there, which is written after
every rank's files have arrived and lists them with their sizes: what was cut short, or damaged later, is
passed over. Owns no weights: what is in the files is the engine's.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import fsspec
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cluster.errors import Conflict, JobFailed
from cluster.storage import filesystem_of, is_there, reaching

MARKER = "complete.json"

# Keys that may differ between a run and its resumption: they change neither rows, nor their order, nor
# the gradient. Of `batch` and `scaling` only the global batch matters, which is compared by itself.
FREE_KEYS = ("name", "batch", "scaling", "output", "checkpoint_every_steps", "early_stopping_patience")

# What each worker writes: all of the optimizer's state, its shard of that, or its shard of the weights too.
FILES_OF_STAGE = {0: "all", 1: "optimizer", 2: "optimizer", 3: "weights"}


class CheckpointMarker(BaseModel):
    """What makes a checkpoint complete, in its `complete.json`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    step: int = Field(ge=0, description="Optimizer steps done.")
    world_size: int = Field(gt=0)
    config: dict[str, Any] = Field(description="The resolved config of the run.")
    data_sha256: str | None = Field(None, description="Digest of the run's rows; older markers have none.")
    files: dict[str, int] = Field(description="Size in bytes of each file.")


@dataclass(frozen=True)
class FoundCheckpoint:
    """A complete checkpoint and where it lies."""

    uri: str
    marker: CheckpointMarker


def folder_name(step: int) -> str:
    """The folder of a checkpoint: `step-00000026`."""
    return f"step-{step:08d}"


def mark_complete(
    uri: str, *, step: int, world_size: int, config: Mapping[str, Any], data_sha256: str | None
) -> None:
    """Write the marker of a checkpoint whose files have all arrived."""
    with reaching(uri, "write") as (filesystem, path):
        marker = CheckpointMarker(
            step=step,
            world_size=world_size,
            config=dict(config),
            data_sha256=data_sha256,
            files=_sizes(filesystem, path),
        )
        filesystem.pipe_file(f"{path}/{MARKER}", marker.model_dump_json().encode())


def newest_complete(run_uri: str) -> tuple[FoundCheckpoint | None, list[str]]:
    """The complete checkpoint with the most steps, and the names of newer ones that are not complete."""
    with reaching(run_uri, "read") as (filesystem, path):
        filesystem.invalidate_cache()
        if not is_there(filesystem, path):
            return None, []
        folders = [
            folder for attempt in _folders(filesystem, path) for folder in _folders(filesystem, attempt)
        ]
        passed_over: list[str] = []
        for folder in sorted(folders, key=lambda name: name.rsplit("/", 1)[-1], reverse=True):
            marker = _read_marker(filesystem, folder)
            if marker is not None:
                relative = folder.removeprefix(path.rstrip("/") + "/")
                return FoundCheckpoint(f"{run_uri.rstrip('/')}/{relative}", marker), passed_over
            passed_over.append("/".join(folder.rsplit("/", 2)[-2:]))
        return None, passed_over


def wait_for_step(run_uri: str, step: int, deadline_s: float = 120.0) -> str:
    """The URI of the complete checkpoint of a step that was just saved. Raises JobFailed when none appears."""
    until = time.monotonic() + deadline_s
    with reaching(run_uri, "read") as (filesystem, path):
        while True:
            filesystem.invalidate_cache()
            for attempt in _folders(filesystem, path):
                if is_there(filesystem, f"{attempt}/{folder_name(step)}/{MARKER}"):
                    return f"{run_uri.rstrip('/')}/{attempt.rsplit('/', 1)[-1]}/{folder_name(step)}"
            if time.monotonic() > until:
                raise JobFailed(f"the checkpoint of step {step} is not in {run_uri}; was it deleted?")
            time.sleep(0.2)


def require_same_run(marker: CheckpointMarker, config: Mapping[str, Any], global_batch_size: int) -> None:
    """Refuse to go on from a checkpoint of another model, other settings or another schedule.

    Raises Conflict naming each key with its old and new value, before anything is started.
    """
    saved, now = _comparable(marker.config), _comparable(config)
    changed = [
        f"{key} was {saved.get(key)!r} and is {now.get(key)!r}"
        for key in sorted(saved.keys() | now.keys())
        if saved.get(key) != now.get(key)
    ]
    saved_batch = _global_batch_size(marker.config)
    if saved_batch != global_batch_size:
        changed.append(f"the global batch was {saved_batch} rows and is {global_batch_size}")
    patience = config.get("early_stopping_patience")
    if patience is not None and marker.config.get("early_stopping_patience") is None:
        # Without it only the newest are kept: the best epoch's, which would be gone back to, may be deleted.
        changed.append(f"early_stopping_patience was None and is {patience}")
    if changed:
        raise Conflict(
            f"the run was begun with another config: {'; '.join(changed)}; go on with the old values, or "
            "start a new run"
        )


def require_same_rows(marker: CheckpointMarker, data_sha256: str, source: str) -> None:
    """Refuse to go on with rows that changed under the same name. Raises Conflict.

    A step is a place in an epoch's order, which follows from the number of rows and their lengths.
    """
    if marker.data_sha256 not in (None, data_sha256):
        raise Conflict(
            f"the run was begun on other rows: their SHA-256 was {marker.data_sha256:.16} and is "
            f"{data_sha256:.16}, read from {source}; bring the old rows back, or start a new run",
            "data",
        )


def require_same_files(marker: CheckpointMarker, zero_stage: int) -> None:
    """Refuse a ZeRO stage that reads other files than the checkpoint has. Raises Conflict.

    Stages 1 and 2 write the same. The number of workers may differ: see `training.engine.Engine.load`.
    """
    saved_stage = int(marker.config["scaling"]["zero_stage"])
    if FILES_OF_STAGE[saved_stage] != FILES_OF_STAGE[zero_stage]:
        raise Conflict(
            f"the checkpoint was saved with ZeRO stage {saved_stage}, asked stage {zero_stage}, which writes "
            f"and reads other files; resume with scaling.zero_stage={saved_stage}",
            "scaling.zero_stage",
        )


def delete_others(run_uri: str, kept: FoundCheckpoint | None) -> None:
    """Remove what earlier attempts left, except the checkpoint that is gone on from."""
    kept_path = filesystem_of(kept.uri)[1] if kept else ""
    with reaching(run_uri, "delete") as (filesystem, path):
        if not is_there(filesystem, path):
            return
        for attempt in _folders(filesystem, path):
            if not kept_path.startswith(attempt.rstrip("/") + "/"):
                filesystem.rm(attempt, recursive=True)
                continue
            for folder in _folders(filesystem, attempt):
                if folder.rstrip("/") != kept_path.rstrip("/"):
                    filesystem.rm(folder, recursive=True)


def _read_marker(filesystem: fsspec.AbstractFileSystem, folder: str) -> CheckpointMarker | None:
    try:
        marker = CheckpointMarker.model_validate_json(filesystem.cat_file(f"{folder}/{MARKER}"))
    except (FileNotFoundError, ValidationError):
        return None
    sizes = _sizes(filesystem, folder)
    return marker if all(sizes.get(name) == size for name, size in marker.files.items()) else None


def _sizes(filesystem: fsspec.AbstractFileSystem, folder: str) -> dict[str, int]:
    root = folder.rstrip("/") + "/"
    found: dict[str, Any] = filesystem.find(folder, detail=True)
    names = {path[path.index(root) + len(root) :]: entry["size"] for path, entry in found.items()}
    return {name: int(size) for name, size in names.items() if name != MARKER}


def _folders(filesystem: fsspec.AbstractFileSystem, path: str) -> list[str]:
    return [entry["name"] for entry in filesystem.ls(path, detail=True) if entry["type"] == "directory"]


def _comparable(config: Mapping[str, Any]) -> dict[str, Any]:
    # Through JSON, in which the saved one is: a tuple and a list are then the same.
    plain: dict[str, Any] = json.loads(json.dumps(config, default=str))
    return {key: value for key, value in plain.items() if key not in FREE_KEYS}


def _global_batch_size(config: Mapping[str, Any]) -> int:
    batch = config["batch"]
    cut: int = batch["micro_batch_size_per_gpu"] * batch["gradient_accumulation_steps"]
    return cut * int(config["scaling"]["num_workers"])
