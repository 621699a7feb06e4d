"""The policy of `auto` that an evaluation promoted, as one router replica reads it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from cluster.errors import Unavailable
from cluster.router_policy import RouterPolicy, read_policy

log = logging.getLogger(__name__)

# How long answers may wait for it: the first reading of a remote storage takes seconds, a driver may try for minutes.
READ_TIMEOUT_S = 5.0


class PromotedPolicy:
    """Reads it again and again; when it cannot be read, the last one stays in force.

    A file that is broken, or a storage that is down or hangs, must not take every answer with it.
    """

    def __init__(
        self, read: Callable[[], RouterPolicy | None] = read_policy, timeout_s: float = READ_TIMEOUT_S
    ) -> None:
        self._read = read
        self._timeout_s = timeout_s
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="promoted-policy")
        self._reading: Future[RouterPolicy | None] | None = None
        self._last: RouterPolicy | None = None
        self._is_readable = True

    def read(self) -> RouterPolicy | None:
        timeout_s = self._timeout_s if self._reading is None else 0  # a reading that hangs is waited for once
        reading = self._reading = self._reading or self._thread.submit(self._read)
        try:
            self._last = reading.result(timeout_s)
        except TimeoutError:
            self._tell("storage does not answer")
            return self._last
        except Unavailable as exc:
            self._tell(exc)
        else:
            self._is_readable = True
        self._reading = None
        return self._last

    def _tell(self, fault: object) -> None:
        if self._is_readable:  # once, not with every request
            log.warning("the promoted policy cannot be read, the last one stays: %s", fault)
        self._is_readable = False
