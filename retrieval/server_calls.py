"""Calls to a Qdrant server: repeated when that can help, and failing in our own errors."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from typing import TypeVar

import grpc
import httpx
from qdrant_client.common.client_exceptions import QdrantException, ResourceExhaustedResponse
from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse
from tenacity import (
    RetryCallState,
    Retrying,
    before_sleep_log,
    retry_if_exception,
    stop_after_attempt,
    wait_exponential_jitter,
)

from cluster.errors import HamletError, StoreUnavailable
from retrieval.store import unknown_collection

log = logging.getLogger(__name__)
Result = TypeVar("Result")

MAX_ATTEMPTS = 5
# The longest pause between two attempts. Who is told to wait longer hands that on to the caller.
MAX_WAIT_S = 5.0
RETRY_AFTER_S = 2.0

# Answers that may be another one next time: overloaded, starting, between two owners.
TRANSIENT_STATUS = frozenset({408, 429, 500, 502, 503, 504})
TRANSIENT_GRPC = frozenset(
    {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.RESOURCE_EXHAUSTED}
)
# Of an alias, or of the collection with a drawn name behind it.
POSSIBLE_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,99}")
NO_ANSWER = (ResponseHandlingException, httpx.HTTPError, OSError)


class ServerCalls:
    """Makes calls. Every call that is made through it may safely be made twice.

    `wait_s` is the first pause between attempts; it doubles, with jitter, up to MAX_WAIT_S. A server that says how
    long to wait is waited for that long.
    """

    def __init__(self, wait_s: float = 0.2, max_attempts: int = MAX_ATTEMPTS) -> None:
        growing = wait_exponential_jitter(multiplier=wait_s, max=MAX_WAIT_S, jitter=wait_s)

        def pause(state: RetryCallState) -> float:
            assert state.outcome is not None
            return max(growing(state), retry_after_s(state.outcome.exception()) or 0.0)

        self._retrying = Retrying(
            retry=retry_if_exception(is_transient),
            wait=pause,
            stop=stop_after_attempt(max_attempts),
            before_sleep=before_sleep_log(log, logging.INFO),
            reraise=True,
        )

    def __call__(self, collection: str | None, operation: Callable[[], Result]) -> Result:
        """The result of `operation`. Raises NotFound for an unknown collection, else StoreUnavailable."""
        if collection is not None and not POSSIBLE_NAME.fullmatch(collection):
            # The server refuses such a name as a bad request, which would look like a fault of the server.
            raise unknown_collection(collection)
        try:
            # A copy, because one that is shared between threads shares their counts.
            return self._retrying.copy()(operation)
        except (UnexpectedResponse, grpc.RpcError, ValueError, QdrantException, *NO_ANSWER) as exc:
            raise translated(exc, collection) from exc


def is_transient(error: BaseException) -> bool:
    """Whether the same call may succeed a moment later."""
    # A 429 that says when to come back; of the base class where that is no number of seconds.
    if isinstance(error, QdrantException):
        return (retry_after_s(error) or 0.0) <= MAX_WAIT_S
    if isinstance(error, UnexpectedResponse):
        return error.status_code in TRANSIENT_STATUS
    if isinstance(error, grpc.RpcError):
        return error.code() in TRANSIENT_GRPC
    return isinstance(error, NO_ANSWER)


def retry_after_s(error: BaseException | None) -> float | None:
    """How long the server says to wait before the next attempt, if it does."""
    return float(error.retry_after_s) if isinstance(error, ResourceExhaustedResponse) else None


def translated(error: Exception, collection: str | None) -> HamletError:
    """Our error for one of the client's."""
    if _is_missing(error):
        return unknown_collection(collection)
    if _is_refused(error):
        return StoreUnavailable("the Qdrant server refuses our key; check HAMLET_QDRANT_API_KEY")
    if isinstance(error, QdrantException):
        return StoreUnavailable(
            f"the Qdrant server limits how often it is asked: {error}",
            retry_after_s=retry_after_s(error) or RETRY_AFTER_S,
        )
    if isinstance(error, UnexpectedResponse):
        reason = error.content.decode(errors="replace")[:300]
        return StoreUnavailable(
            f"the Qdrant server answered {error.status_code}: {reason}", retry_after_s=RETRY_AFTER_S
        )
    return StoreUnavailable(
        f"the Qdrant server does not answer ({error}); check HAMLET_QDRANT_URL and that it runs",
        retry_after_s=RETRY_AFTER_S,
    )


def _is_refused(error: Exception) -> bool:
    if isinstance(error, grpc.RpcError):
        return error.code() in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED)
    return isinstance(error, UnexpectedResponse) and error.status_code in (401, 403)


def _is_missing(error: Exception) -> bool:
    if isinstance(error, UnexpectedResponse):
        return bool(error.status_code == 404)
    if isinstance(error, grpc.RpcError):
        return bool(error.code() == grpc.StatusCode.NOT_FOUND)
    # The in-memory mode's word for it.
    return isinstance(error, ValueError) and "not found" in str(error)
