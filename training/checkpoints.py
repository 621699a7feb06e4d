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


class CheckpointMarker(BaseModel):
    """What makes a checkpoint complete, in its `complete.json`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    step: int = Field(ge=0, description="Optimizer steps done.")
    world_size: int = Field(gt=0)
    config: dict[str, Any] = Field(description="The resolved config of the run.")
    files: dict[str, int] = Field(description="Size in bytes of each file.")


@dataclass(frozen=True)
class FoundCheckpoint:
    """A complete checkpoint and where it lies."""

    uri: str
    marker: CheckpointMarker


def folder_name(step: int) -> str:
    """The folder of a checkpoint: `step-00000026`."""
    return f"step-{step:08d}"


def mark_complete(uri: str, *, step: int, world_size: int, config: Mapping[str, Any]) -> None:
    """Write the marker of a checkpoint whose files have all arrived."""
    with reaching(uri, "write") as (filesystem, path):
        marker = CheckpointMarker(
            step=step, world_size=world_size, config=dict(config), files=_sizes(filesystem, path)
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
    """Refuse to go on from a checkpoint of other rows, another model or another schedule.

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
    if changed:
        raise Conflict(
            f"the run was begun with another config: {'; '.join(changed)}; go on with the old values, or "
            "start a new run"
        )


def require_world_size(marker: CheckpointMarker, num_workers: int, zero_stage: int) -> None:
    """Refuse another number of workers where each one's shard is only its own. Raises Conflict.

    Without ZeRO every worker holds everything, so any number can go on.
    """
    if zero_stage > 0 and marker.world_size != num_workers:
        raise Conflict(
            f"the checkpoint was saved with {marker.world_size} workers, asked {num_workers}: with ZeRO stage "
            f"{zero_stage} it is cut for that number; resume with scaling.num_workers={marker.world_size}",
            "scaling.num_workers",
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
