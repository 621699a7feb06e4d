from __future__ import annotations

import asyncio
import pickle

import pytest
from ray.exceptions import (
    ActorDiedError,
    NodeDiedError,
    ObjectLostError,
    OutOfMemoryError,
    OwnerDiedError,
    RayError,
    RaySystemError,
    RayTaskError,
    TaskUnschedulableError,
    UnserializableException,
    WorkerCrashedError,
)
from ray.serve._private.common import DeploymentID
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, RequestCancelledError

from cluster.errors import ContextLengthExceeded, Unavailable
from serving import handles
from serving.config import EmbedderConfig
from serving.handles import EmbedderHandle, translate


def test_an_error_of_ours_that_crossed_a_process_is_told_as_it_is() -> None:
    cause = pickle.loads(pickle.dumps(ContextLengthExceeded("too long", "messages")))
    told = translate(RayTaskError("complete", "traceback", cause), "generator")
    assert told is cause
    assert isinstance(told, ContextLengthExceeded)
    assert told.param == "messages"


@pytest.mark.parametrize(
    "error",
    [
        ActorDiedError(),
        WorkerCrashedError(),
        NodeDiedError("the node died"),
        OutOfMemoryError("killed by the memory monitor"),
        ObjectLostError("00" * 28, None, ""),
        OwnerDiedError("00" * 28, None, ""),
        RaySystemError("the raylet died"),
        TaskUnschedulableError("no such node"),
        RayTaskError("search", "traceback", OutOfMemoryError("of a part that the replica had called")),
        DeploymentUnavailableError(DeploymentID("generator")),
        BackPressureError(9, 8),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_was_lost_and_a_full_queue_are_unavailable_for_a_while(error: Exception) -> None:
    told = translate(error, "generator")
    assert isinstance(told, Unavailable)
    assert told.retry_after_s
    assert "generator" in told.message


@pytest.mark.parametrize(
    "fault",
    [
        RayTaskError("complete", "traceback", ZeroDivisionError()),
        RayTaskError("complete", "traceback", RayError("an error that cannot be pickled")),
        UnserializableException("an error that cannot be unpickled"),
        RequestCancelledError("request-1"),
    ],
    ids=str,
)
def test_a_fault_of_the_code_and_a_caller_who_left_stay_what_they_are(fault: Exception) -> None:
    assert translate(fault, "generator") is fault


class NoReplica:
    """A handle whose calls wait for ever; counts them."""

    def __init__(self) -> None:
        self.num_calls = 0
        self.ping = self.embed = self

    def remote(self, *_args: object) -> asyncio.Future[None]:
        self.num_calls += 1
        return asyncio.get_running_loop().create_future()


def test_a_part_that_starts_on_demand_is_started_by_requests_and_never_by_probes() -> None:
    handle = NoReplica()
    asyncio.run(EmbedderHandle(handle, "embedder", 0.01, EmbedderConfig(min_replicas=0)).check_health())
    assert handle.num_calls == 0
    with pytest.raises(Unavailable):
        asyncio.run(EmbedderHandle(handle, "embedder", 0.01, EmbedderConfig()).check_health())
    assert handle.num_calls == 1


@pytest.mark.parametrize(("min_replicas", "waits_s"), [(0, 0.2), (1, 0.01)])
def test_a_request_waits_longer_where_no_replica_is_kept(
    monkeypatch: pytest.MonkeyPatch, min_replicas: int, waits_s: float
) -> None:
    monkeypatch.setattr(handles, "START_S", 0.2)
    embedder = EmbedderHandle(NoReplica(), "embedder", 0.01, EmbedderConfig(min_replicas=min_replicas))
    with pytest.raises(Unavailable, match=f"within {waits_s:g} s") as refused:
        asyncio.run(embedder.embed(["a"]))
    assert refused.value.retry_after_s
