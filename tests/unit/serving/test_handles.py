from __future__ import annotations

import pickle

from ray.exceptions import ActorDiedError, RayTaskError
from ray.serve.exceptions import BackPressureError

from cluster.errors import ContextLengthExceeded, Unavailable
from serving.handles import translate


def test_an_error_of_ours_that_crossed_a_process_is_told_as_it_is() -> None:
    cause = pickle.loads(pickle.dumps(ContextLengthExceeded("too long", "messages")))
    told = translate(RayTaskError("complete", "traceback", cause), "generator")
    assert told is cause
    assert isinstance(told, ContextLengthExceeded)
    assert told.param == "messages"


def test_a_replica_that_died_and_a_full_queue_are_unavailable_for_a_while() -> None:
    for error in (ActorDiedError(), BackPressureError(9, 8)):
        told = translate(error, "generator")
        assert isinstance(told, Unavailable)
        assert told.retry_after_s
        assert "generator" in told.message


def test_a_fault_of_the_code_stays_one() -> None:
    fault = RayTaskError("complete", "traceback", ZeroDivisionError())
    assert translate(fault, "generator") is fault
