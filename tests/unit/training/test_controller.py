from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import ray
from ray.exceptions import RayActorError
from ray.train.v2._internal.exceptions import BroadcastCollectiveTimeoutError
from ray.train.v2._internal.execution.controller.state import InitializingState, RunningState

from cluster.errors import ConfigError, DataError, JobFailed, StoreUnavailable
from training.checkpoints import newest_complete
from training.controller import FailFast, MarkComplete, WaitForRoom, deterministic_fault, first_failure
from training.progress import NoticeEvent

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


def test_a_rank_that_reported_no_checkpoint_is_named_and_the_run_tried_again() -> None:
    failures: dict[int, Exception] = {0: BroadcastCollectiveTimeoutError(600.2, [1, 3], 600.0)}
    assert deterministic_fault(failures) is None
    assert str(first_failure(failures)) == ("worker 0 waited 600 s for rank 1 and 3 to report a checkpoint")


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


class Wait:
    """A run of 64 workers without any, on a cluster of two CPUs."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, limit_s: float) -> None:
        monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 2.0})
        monkeypatch.setattr(ray, "available_resources", lambda: {"CPU": 1.0})
        self.now, self.told = 0.0, list[NoticeEvent]()
        self.waits = list[bool]()
        event_log = SimpleNamespace(
            post=SimpleNamespace(remote=self.told.append), wait=SimpleNamespace(remote=self.waits.append)
        )
        per_worker = {"CPU": 1.0, "GPU": 1.0}
        self.callback = WaitForRoom(event_log, 64, per_worker, limit_s, lambda: self.now)

    def looks_up(self, at_s: float, *, has_workers: bool = False) -> None:
        self.now = at_s
        state = RunningState() if has_workers else InitializingState()
        self.callback.after_controller_state_update(state, state)


ASKED = "64 workers ask for 64 CPU and 64 GPU, the cluster has 2 CPU (1 free) and 0 GPU (0 free)"


def test_a_run_without_room_says_once_what_it_waits_for_and_ends_at_its_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wait = Wait(monkeypatch, limit_s=3600)
    for at_s in (0, 10, 60, 120, 3599):
        wait.looks_up(at_s)
    assert wait.told == [NoticeEvent(f"waits for room: {ASKED}", level="warn")]
    with pytest.raises(JobFailed) as caught:
        wait.looks_up(3600)
    assert str(caught.value).startswith(
        f"no room for the workers within 1 h 00 min (scaling.start_timeout_s): {ASKED};"
    )
    assert caught.value.param == "scaling.num_workers"


def test_each_wait_is_told_and_counted_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    wait = Wait(monkeypatch, limit_s=100)
    wait.looks_up(0)
    wait.looks_up(60)
    wait.looks_up(90, has_workers=True)
    wait.looks_up(5000)
    wait.looks_up(5090)
    assert len(wait.told) == 2
    assert wait.waits == [True, True, False, True, True]


def test_a_limit_shorter_than_the_first_notice_is_told_too(monkeypatch: pytest.MonkeyPatch) -> None:
    wait = Wait(monkeypatch, limit_s=5)
    wait.looks_up(0)
    with pytest.raises(JobFailed, match=r"within 5 s \(scaling\.start_timeout_s\)"):
        wait.looks_up(6)
    assert len(wait.told) == 1
