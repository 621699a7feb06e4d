"""What Prometheus sees of the router, by Ray's own exporter. Names, units and labels stand here and nowhere else.

hamlet_requests_total{path,status}      finished HTTP requests
hamlet_request_ms{path}                 from first byte in to last byte out
hamlet_answers_total{route,degraded}    chat answers by the route they took
hamlet_tokens_total{kind,model}         kind is prompt or completion
hamlet_stage_ms{stage}                  of a chat answer: route, embed, search, rerank, classify, generate
hamlet_first_token_ms{model}            of a streamed answer, from the call of the engine
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, Protocol

MS_BOUNDARIES = [1, 2, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10_000, 30_000, 120_000]


class Metrics(Protocol):
    """Counts and observes. Two implementations: `ServeMetrics`, and `CountedMetrics` for tests."""

    def count(self, name: str, labels: Mapping[str, str], by: int = 1) -> None: ...

    def observe(self, name: str, labels: Mapping[str, str], value: float) -> None: ...


class CountedMetrics:
    """Keeps everything in memory, keyed by name and label values."""

    def __init__(self) -> None:
        self.counts: Counter[tuple[str, ...]] = Counter()
        self.observed: dict[tuple[str, ...], list[float]] = {}

    def count(self, name: str, labels: Mapping[str, str], by: int = 1) -> None:
        self.counts[(name, *labels.values())] += by

    def observe(self, name: str, labels: Mapping[str, str], value: float) -> None:
        self.observed.setdefault((name, *labels.values()), []).append(value)


class ServeMetrics:
    """Metrics of a Serve replica, exported with Ray's labels of deployment and replica."""

    def __init__(self) -> None:
        from ray.serve import metrics

        def counter(name: str, text: str, *labels: str) -> Any:
            return metrics.Counter(name, description=text, tag_keys=labels)

        def histogram(name: str, text: str, *labels: str) -> Any:
            return metrics.Histogram(name, description=text, boundaries=MS_BOUNDARIES, tag_keys=labels)

        self._counters = {
            "requests": counter("hamlet_requests_total", "Finished HTTP requests.", "path", "status"),
            "answers": counter("hamlet_answers_total", "Chat answers.", "route", "degraded"),
            "tokens": counter("hamlet_tokens_total", "Tokens.", "kind", "model"),
        }
        self._histograms = {
            "request_ms": histogram("hamlet_request_ms", "Milliseconds of a request.", "path"),
            "stage_ms": histogram("hamlet_stage_ms", "Milliseconds of a stage.", "stage"),
            "first_token_ms": histogram("hamlet_first_token_ms", "Milliseconds to the first token.", "model"),
        }

    def count(self, name: str, labels: Mapping[str, str], by: int = 1) -> None:
        if by:  # Ray refuses to add nothing
            self._counters[name].inc(by, tags=dict(labels))

    def observe(self, name: str, labels: Mapping[str, str], value: float) -> None:
        self._histograms[name].observe(value, tags=dict(labels))
