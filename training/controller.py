"""What we add to Ray Train's controller: markers of complete checkpoints, no second try of a fault of ours, an end
of waiting for room.

All run in the controller's process, which hears of every rank.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import ray
from ray.train import Checkpoint, UserCallback
from ray.train.v2._internal.exceptions import BroadcastCollectiveTimeoutError
from ray.train.v2._internal.execution.callback import ControllerCallback
from ray.train.v2._internal.execution.controller import state

from cluster.errors import HamletError, JobFailed, Unavailable
from training.checkpoints import mark_complete
from training.progress import NoticeEvent, duration

# What would happen again at the same row with the same numbers. Lost workers, broken connections, full
# memory and disks come as RuntimeError, OSError, MemoryError or Ray's own errors, and are worth a retry.
DETERMINISTIC = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    TypeError,
    ValueError,
)

# The controller's states in which a run has no workers and seeks room for them.
WITHOUT_WORKERS = (
    state.InitializingState,
    state.SchedulingState,
    state.ReschedulingState,
    state.RestartingState,
    state.ResizingState,
)
# Seconds without workers after which a run says what it waits for: a start takes less.
NOTICE_AFTER_S = 30.0


def deterministic_fault(failures: Mapping[int, Exception]) -> HamletError | None:
    """The fault that a restart would meet again, from the failures by rank; None when a retry may help.

    A HamletError of a worker is itself returned, any other becomes a JobFailed that names the rank. When
    one rank fails so, the others fail too, of broken connections: one such failure decides.
    """
    for rank, failure in sorted(failures.items()):
        cause = _cause(failure)
        is_ours = isinstance(cause, HamletError) and not isinstance(cause, Unavailable)
        if is_ours or isinstance(cause, DETERMINISTIC):
            return _told(rank, cause)
    return None


def first_failure(failures: Mapping[int, Exception]) -> HamletError | None:
    """What to tell of workers that failed too often: the first rank's own error instead of a page of traces."""
    if not failures:
        return None
    rank = min(failures)
    return _told(rank, _cause(failures[rank]))


def _cause(failure: Exception) -> BaseException:
    """What Ray wrapped: its own errors have it as `cause`, Python's as `__cause__`."""
    return getattr(failure, "cause", None) or failure.__cause__ or failure


def _told(rank: int, cause: BaseException) -> HamletError:
    if isinstance(cause, HamletError):
        return cause
    if isinstance(cause, BroadcastCollectiveTimeoutError):
        # Not its own words, which send people to a variable of Ray's.
        ranks = " and ".join(map(str, cause._missing_ranks))
        return JobFailed(
            f"worker {rank} waited {cause._timeout_s:g} s for rank {ranks} to report a checkpoint"
        )
    return JobFailed(f"worker {rank} failed: {type(cause).__name__}: {cause}")


class FailFast(UserCallback):
    """Ends a run at its first deterministic fault.

    Ray Train retries every worker's error alike, but ends at once when one of its callbacks raises.
    """

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        fault = deterministic_fault(worker_exceptions)
        if fault is not None:
            raise fault


class MarkComplete(UserCallback):
    """Writes the marker of a checkpoint when every rank has reported it."""

    def __init__(self, attempt_uri: str, config: dict[str, Any], data_sha256: str | None) -> None:
        self._attempt_uri = attempt_uri
        self._config = config
        self._data_sha256 = data_sha256

    def after_report(
        self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Checkpoint | None
    ) -> None:
        if checkpoint is None:
            return
        folder = checkpoint.path.rstrip("/").rsplit("/", 1)[-1]
        mark_complete(
            f"{self._attempt_uri}/{folder}",
            step=int(metrics[0]["step"]),
            world_size=len(metrics),
            config=self._config,
            data_sha256=self._data_sha256,
        )


class WaitForRoom(ControllerCallback):
    """Says what a run without workers waits for, and ends it when it has waited `limit_s` at a stretch.

    Ray Train waits without a word, and without a limit: `FailureConfig.controller_failure_limit` counts tries over
    the whole run, and elastic runs make none. Its public callbacks do not hear of the wait; this one comes here
    between two tries.
    """

    def __init__(
        self,
        event_log: Any,
        num_workers: int,
        per_worker: Mapping[str, float],
        limit_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._event_log = event_log
        self._num_workers, self._per_worker, self._limit_s = num_workers, dict(per_worker), limit_s
        self._clock = clock
        self._since: float | None = None
        self._has_told = False

    def after_controller_state_update(self, previous_state: Any, current_state: Any) -> None:
        is_waiting = isinstance(current_state, WITHOUT_WORKERS)
        self._event_log.wait.remote(is_waiting)
        if not is_waiting:
            self._since, self._has_told = None, False
            return
        self._since = self._clock() if self._since is None else self._since
        waited_s = self._clock() - self._since
        if waited_s < min(NOTICE_AFTER_S, self._limit_s):
            return
        total, free = ray.cluster_resources(), ray.available_resources()
        asked = describe_room(self._num_workers, self._per_worker, total, free)
        if not self._has_told:
            self._has_told = True
            self._event_log.post.remote(NoticeEvent(f"waits for room: {asked}", level="warn"))
        if waited_s >= self._limit_s:
            raise JobFailed(
                f"no room for the workers within {duration(self._limit_s)} (scaling.start_timeout_s): {asked}; ask for "
                "fewer with scaling.num_workers, add nodes, or wait longer",
                "scaling.num_workers",
            )


def describe_room(
    num_workers: int, per_worker: Mapping[str, float], total: Mapping[str, float], free: Mapping[str, float]
) -> str:
    """What is asked for beside what there is. Pure.

    >>> describe_room(64, {"CPU": 1, "GPU": 1}, {"CPU": 8.0}, {"CPU": 6.0})
    '64 workers ask for 64 CPU and 64 GPU, the cluster has 8 CPU (6 free) and 0 GPU (0 free)'
    """
    asked = [f"{num_workers * amount:g} {name}" for name, amount in per_worker.items()]
    there = [f"{total.get(name, 0):g} {name} ({free.get(name, 0):g} free)" for name in per_worker]
    who = "1 worker asks" if num_workers == 1 else f"{num_workers} workers ask"
    return f"{who} for {' and '.join(asked)}, the cluster has {' and '.join(there)}"
