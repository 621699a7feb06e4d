from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from ray.exceptions import RayActorError

from cluster.errors import ConfigError, DataError, JobFailed, StoreUnavailable
from training.checkpoints import newest_complete
from training.controller import FailFast, MarkComplete, deterministic_fault, first_failure

BROKEN = RuntimeError("Connection closed by peer")


@pytest.mark.parametrize("cause", [ValueError("bad row 17"), KeyError("label"), ZeroDivisionError("0")])
def test_a_fault_that_would_come_again_is_told_with_its_rank_and_words(cause: Exception) -> None:
    fault = deterministic_fault({0: BROKEN, 1: cause})
    assert isinstance(fault, JobFailed)
    assert str(fault) == f"worker 1 failed: {type(cause).__name__}: {cause}"


def test_an_error_of_ours_is_handed_on_as_it_is() -> None:
    error = DataError("line 3: no label", "label")
    wrapped = RuntimeError("wrapped")
    wrapped.__cause__ = error
    assert deterministic_fault({0: BROKEN, 1: wrapped}) is error
    assert deterministic_fault({0: ConfigError("no such key")}) is not None


@pytest.mark.parametrize(
    "failure",
    [BROKEN, RayActorError(), OSError("No space left"), MemoryError(), StoreUnavailable("away")],
    ids=lambda failure: type(failure).__name__,
)
def test_what_may_be_over_at_the_next_try_is_retried(failure: Exception) -> None:
    assert deterministic_fault({0: failure, 1: BROKEN}) is None
    FailFast().after_exception(None, {0: failure})


def test_the_controller_gives_up_at_the_first_deterministic_fault() -> None:
    with pytest.raises(JobFailed, match="worker 1 failed: ValueError: bad row 17"):
        FailFast().after_exception(None, {1: ValueError("bad row 17")})


def test_workers_that_failed_too_often_are_explained_by_the_first_rank() -> None:
    failure = first_failure({2: OSError("disk"), 1: BROKEN})
    assert str(failure) == "worker 1 failed: RuntimeError: Connection closed by peer"
    assert first_failure({}) is None


def test_a_checkpoint_counts_once_every_rank_has_reported_it(tmp_path: Path) -> None:
    folder = tmp_path / "run" / "attempt-a" / "step-00000026"
    folder.mkdir(parents=True)
    (folder / "shard-0").write_bytes(b"1234")
    assert newest_complete(str(tmp_path / "run"))[0] is None
    reports = [{"step": 26, "validation_loss": 0.5}] * 2
    callback = MarkComplete(str(tmp_path / "run" / "attempt-a"), {"epochs": 3}, "5e")
    callback.after_report(None, reports, None)  # type: ignore[arg-type]
    assert newest_complete(str(tmp_path / "run"))[0] is None
    callback.after_report(None, reports, SimpleNamespace(path=str(folder)))  # type: ignore[arg-type]
    found, _ = newest_complete(str(tmp_path / "run"))
    assert found is not None
    assert (found.marker.step, found.marker.world_size, found.marker.files) == (26, 2, {"shard-0": 4})
    assert (found.marker.config, found.marker.data_sha256) == ({"epochs": 3}, "5e")
