"""What all unit tests share.

They keep their files in memory where the machine allows it: hundreds of small databases sync to no disk. Their
models have a few thousand weights: a second thread would do nothing but wait, which OpenMP does by spinning.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import aiohttp
import fsspec
import pytest

from cluster.cards import ModelCard, ModelKind, Parity

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read once, when torch is imported

SHARED_MEMORY = Path("/dev/shm")

if os.access(SHARED_MEMORY, os.W_OK):
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(SHARED_MEMORY))


class AwayFileSystem(fsspec.AbstractFileSystem):
    """A store that does not answer: every call that would reach it raises `fault`."""

    protocol = "away"
    fault: Exception

    def fail(self, *_: object, **__: object) -> None:
        raise self.fault

    info = ls = open = modified = fail
    makedirs = put_file = pipe_file = rm_file = rm = get = cat_file = fail


# As botocore's, which is not installed where no S3 is used: not an OSError, and raised through s3fs as it is.
EndpointConnectionError = type("EndpointConnectionError", (Exception,), {"__module__": "botocore.exceptions"})


@pytest.fixture(
    params=[
        ConnectionRefusedError("no answer"),
        EndpointConnectionError("no answer"),
        aiohttp.ClientPayloadError("no answer"),
    ],
    ids=lambda fault: type(fault).__name__,
)
def store_away(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URI of a store that does not answer."""
    fsspec.register_implementation("away", AwayFileSystem, clobber=True)
    monkeypatch.setattr(AwayFileSystem, "fault", request.param, raising=False)
    return "away://bucket"


@pytest.fixture
def make_card() -> Callable[..., ModelCard]:
    """Makes a valid card; keyword arguments replace its fields."""

    def make(**changes: object) -> ModelCard:
        fields: dict[str, object] = {
            "id": "ft:minilm:hamlet:mrpc:1",
            "kind": ModelKind.CLASSIFIER,
            "base_model": "builtin:minilm",
            "weights_uri": "/nowhere",
            "max_length_tokens": 128,
            "config_sha256": "c",
            "data_sha256": "d",
            "code_version": "1",
            "parity": Parity(passed=True, max_metric_difference=0.0),
        }
        return ModelCard.model_validate(fields | changes)

    return make
