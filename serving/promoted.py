"""The policy of `auto` that an evaluation promoted, as one router replica reads it."""

from __future__ import annotations

import logging
from collections.abc import Callable

from cluster.errors import Unavailable
from cluster.router_policy import RouterPolicy, read_policy

log = logging.getLogger(__name__)


class PromotedPolicy:
    """Reads it again and again; when it cannot be read, the last one stays in force.

    A file that is broken, or a storage that is down, must not take every answer with it.
    """

    def __init__(self, read: Callable[[], RouterPolicy | None] = read_policy) -> None:
        self._read = read
        self._last: RouterPolicy | None = None
        self._is_readable = True

    def read(self) -> RouterPolicy | None:
        try:
            self._last = self._read()
        except Unavailable as exc:
            if self._is_readable:  # once, not with every request
                log.warning("the promoted policy cannot be read, the last one stays: %s", exc)
            self._is_readable = False
        else:
            self._is_readable = True
        return self._last
