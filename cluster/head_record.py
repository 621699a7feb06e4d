"""What is written down about the Ray head of this HAMLET_HOME, and which processes belong to it.

The record is `<home>/cluster.json`. Every process of the head carries the record's `head_id` in its
environment, so that workers, replicas and engines are found even after the process that started
them is gone, and no process of another Ray is ever taken for ours.
"""

from __future__ import annotations

import logging
from pathlib import Path

import psutil
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cluster.settings import settings

log = logging.getLogger(__name__)

# Not prefixed HAMLET_: those are settings of the user's, and unknown ones are reported.
MARKER_VARIABLE = "RAY_HEAD_STARTED_BY_HAMLET"


class HeadRecord(BaseModel):
    """A head that was started here; it may have ended since (`is_alive`)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    head_id: str = Field(description="Value of MARKER_VARIABLE in all its processes.")
    pid: int = Field(description="The supervising `ray start --block`.")
    started_at_s: float = Field(
        description="Creation time of that process; tells it from a reuse of its pid, as its mark does."
    )
    address: str = Field(description="host:port for ray.init.")
    dashboard_url: str = Field(description="Dashboard and jobs API.")
    ray_version: str
    python_version: str
    num_cpus: int
    temp_dir: Path = Field(description="Ray's sessions: logs, sockets, spilled objects.")
    redis: str | None = Field(
        None,
        description="host:port of the Redis that keeps its state under `address`; the password is not kept.",
    )


def record_path() -> Path:
    return settings().home_dir / "cluster.json"


def read_record() -> HeadRecord | None:
    """The record, or None when no head was started here (or its record is unreadable, which is logged)."""
    try:
        return HeadRecord.model_validate_json(record_path().read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError):
        log.warning("%s is unreadable and is ignored; delete it", record_path())
        return None


def write_record(record: HeadRecord) -> None:
    path = record_path()
    draft = path.with_suffix(".draft")
    draft.write_text(record.model_dump_json(indent=2) + "\n")
    draft.replace(path)  # one rename: a reader sees the whole record or none


def is_living(process: psutil.Process) -> bool:
    """Whether a process still runs; one that has ended and waits for its parent does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def is_alive(record: HeadRecord) -> bool:
    """Whether the supervising process still runs."""
    try:
        process = psutil.Process(record.pid)
        # Linux counts the creation time from the boot, whose time moves when the clock is set: the mark does not.
        same = abs(process.create_time() - record.started_at_s) < 1.0 or _is_marked(process, record)
    except psutil.NoSuchProcess:
        return False
    return same and is_living(process)


def living_head() -> HeadRecord | None:
    """The record of the head that runs, None when none does."""
    record = read_record()
    return record if record is not None and is_alive(record) else None


def processes(record: HeadRecord) -> list[psutil.Process]:
    """Every living process of the head, in no order: those that carry its mark, and their descendants.

    A process that gives itself a title, as Ray's do, writes it over a part of its environment, and may lose the mark.
    """
    family: set[psutil.Process] = set()
    for process in psutil.process_iter():
        try:
            if _is_marked(process, record):
                family |= {process, *process.children(recursive=True)}
        except psutil.Error:
            continue  # ended meanwhile
    return [process for process in family if is_living(process)]


def _is_marked(process: psutil.Process, record: HeadRecord) -> bool:
    """Whether a process carries the head's mark; of one that has ended, or is another user's, it is not known."""
    try:
        return process.environ().get(MARKER_VARIABLE) == record.head_id
    except (psutil.Error, OSError):
        return False
