"""What a caller is told when the owner of the collections does not answer, without a cluster."""

from __future__ import annotations

import asyncio

import pytest
from ray.exceptions import (
    ActorDiedError,
    NodeDiedError,
    OutOfMemoryError,
    RayError,
    RayTaskError,
    UnserializableException,
)

from cluster.errors import NotFound, StoreUnavailable
from retrieval.owner import Remote


class Failing:
    """An owner whose every call ends with this error."""

    def __init__(self, error: RayError) -> None:
        self._error = error
        self.call = self

    async def remote(self, *_: object) -> None:
        raise self._error


def search(error: RayError) -> None:
    asyncio.run(Remote(Failing(error)).call_async("search"))


@pytest.mark.parametrize(
    "loss",
    [ActorDiedError(), NodeDiedError("its node died"), OutOfMemoryError("killed by the memory monitor")],
    ids=lambda loss: type(loss).__name__,
)
def test_a_lost_owner_is_unavailable_for_a_while(loss: RayError) -> None:
    with pytest.raises(StoreUnavailable) as told:
        search(loss)
    assert told.value.retry_after_s


def test_an_error_of_ours_is_told_as_it_was_raised() -> None:
    with pytest.raises(NotFound, match="no such collection"):
        search(RayTaskError("call", "traceback", NotFound("no such collection")))


@pytest.mark.parametrize(
    "fault", [RayTaskError("call", "traceback", ZeroDivisionError()), UnserializableException("?")], ids=str
)
def test_a_fault_of_the_code_stays_one(fault: RayError) -> None:
    with pytest.raises(type(fault)):
        search(fault)
