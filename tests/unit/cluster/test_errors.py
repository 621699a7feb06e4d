"""The tree of errors."""

from __future__ import annotations

import pickle

import pytest

from cluster.errors import (
    ConfigError,
    Conflict,
    ContextLengthExceeded,
    DataError,
    HamletError,
    HubUnreachable,
    JobFailed,
    NotFound,
    Overloaded,
    StoreUnavailable,
    Unavailable,
    Unprocessable,
)


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        (ConfigError, 400),
        (DataError, 400),
        (ContextLengthExceeded, 400),
        (NotFound, 404),
        (Conflict, 409),
        (Unprocessable, 422),
        (Overloaded, 429),
        (Unavailable, 503),
        (HubUnreachable, 503),
        (StoreUnavailable, 503),
        (JobFailed, 500),
    ],
)
def test_each_error_has_its_status_and_crosses_processes_whole(kind: type[HamletError], status: int) -> None:
    error = kind("what happened", "data.path", "some_code", 1.5)
    assert error.status == status
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is kind
    assert (copy.message, copy.param, copy.code, copy.retry_after_s) == (
        "what happened",
        "data.path",
        "some_code",
        1.5,
    )
    assert str(copy) == "what happened"


def test_an_error_without_a_code_has_its_kinds() -> None:
    assert HubUnreachable("no hub").code == "hub_unreachable"
