"""What one answer spends its time on: each stage has its milliseconds, and is a span of the request's trace."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from serving import tracing


class Stages:
    """Milliseconds that each stage of one answer took, in the order in which they ended."""

    def __init__(self) -> None:
        self.ms: dict[str, float] = {}

    @contextmanager
    def measure(self, name: str) -> Iterator[None]:
        stage = self.begin(name)
        with stage.current():
            yield
        stage.end()

    def begin(self, name: str) -> Stage:
        """Start the clock of a stage that ends elsewhere."""
        return Stage(name, self.ms)


class Stage:
    """One stage on the clock until `end`."""

    def __init__(self, name: str, ms: dict[str, float]) -> None:
        self._name = name
        self._ms = ms
        self._ended = False
        self._span = tracing.start(name)
        self._started = time.perf_counter()

    @contextmanager
    def current(self) -> Iterator[None]:
        """What is called meanwhile is a part of the stage; a fault ends it."""
        try:
            with tracing.current(self._span):
                yield
        except BaseException:
            self.end()
            raise

    def end(self) -> None:
        """Stop the clock. Later calls have no effect."""
        if not self._ended:
            self._ended = True
            self._ms[self._name] = round((time.perf_counter() - self._started) * 1000, 3)
            self._span.end()
