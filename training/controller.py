"""What we add to Ray Train's controller: markers of complete checkpoints, and no second try of a fault of ours.

Both run in the controller's process, which hears of every rank.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ray.train import Checkpoint, UserCallback

from cluster.errors import HamletError, JobFailed, Unavailable
from training.checkpoints import mark_complete

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
