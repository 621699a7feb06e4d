"""What Prometheus sees of the router, by Ray's own exporter. Names, units and labels stand here and nowhere else.

hamlet_requests_total{path,status}      finished HTTP requests
hamlet_request_ms{path}                 from first byte in to last byte out
hamlet_answers_total{route,degraded}    chat answers by the route they took
hamlet_tokens_total{kind,model}         kind is prompt or completion; of embeddings, classify and rerank prompt alone
hamlet_stage_ms{stage}                  of a chat answer: route, embed, search, rerank, classify, generate
hamlet_first_token_ms{model}            of a streamed answer, from the call of the engine
hamlet_tpot_ms{model}                   of a streamed answer, for each token of a choice after its first

Of the other replicas, which Ray's label of the deployment tells apart:

hamlet_batch_size                       texts or pairs that the embedder or the classifier computed together
hamlet_cached_tokens_total              prompt tokens that vLLM had in its cache
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Protocol

MS_BOUNDARIES = [1, 2, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10_000, 30_000, 120_000]
SIZE_BOUNDARIES = [1, 2, 4, 8, 16, 32, 64, 128, 256]


class Metrics(Protocol):
    """Counts and observes. Two implementations: `ServeMetrics`, and `CountedMetrics` for tests."""

    def count(self, name: str, labels: Mapping[str, str], by: int = 1) -> None: ...

    def observe(self, name: str, labels: Mapping[str, str], value: float) -> None: ...


def count_tokens(metrics: Metrics, model: str, num_prompt: int, num_completion: int = 0) -> None:
    metrics.count("tokens", {"kind": "prompt", "model": model}, num_prompt)
    metrics.count("tokens", {"kind": "completion", "model": model}, num_completion)


class TokenTimes:
    """When the tokens of one streamed answer come, from now on."""

    def __init__(self, metrics: Metrics, model: str, clock: Callable[[], float] = time.perf_counter) -> None:
        self._metrics = metrics
        self._labels = {"model": model}
        self._clock = clock
        self._started = self._first = clock()

    def first(self) -> float:
        """Observe the first token; its milliseconds."""
        self._first = self._clock()
        ms = (self._first - self._started) * 1000
        self._metrics.observe("first_token_ms", self._labels, ms)
        return ms

    def last(self, num_tokens: int, num_choices: int) -> None:
        """Observe the time per output token: from the first to the last, divided by the tokens after the first.

        Choices are generated at the same time: 20 tokens of 2 choices in 900 ms are 100 ms a token.
        """
        num_further = num_tokens / num_choices - 1
        if num_further > 0:
            ms = (self._clock() - self._first) * 1000
            self._metrics.observe("tpot_ms", self._labels, ms / num_further)


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

        def histogram(name: str, text: str, *labels: str, boundaries: list[int] = MS_BOUNDARIES) -> Any:
            return metrics.Histogram(name, description=text, boundaries=boundaries, tag_keys=labels)

        self._counters = {
            "requests": counter("hamlet_requests_total", "Finished HTTP requests.", "path", "status"),
            "answers": counter("hamlet_answers_total", "Chat answers.", "route", "degraded"),
            "tokens": counter("hamlet_tokens_total", "Tokens.", "kind", "model"),
            "cached_tokens": counter("hamlet_cached_tokens_total", "Prompt tokens found in the cache."),
        }
        self._histograms = {
            "request_ms": histogram("hamlet_request_ms", "Milliseconds of a request.", "path"),
            "stage_ms": histogram("hamlet_stage_ms", "Milliseconds of a stage.", "stage"),
            "first_token_ms": histogram("hamlet_first_token_ms", "Milliseconds to the first token.", "model"),
            "tpot_ms": histogram("hamlet_tpot_ms", "Milliseconds for each further token.", "model"),
            "batch_size": histogram(
                "hamlet_batch_size", "Texts or pairs computed together.", boundaries=SIZE_BOUNDARIES
            ),
        }

    def count(self, name: str, labels: Mapping[str, str], by: int = 1) -> None:
        if by:  # Ray refuses to add nothing
            self._counters[name].inc(by, tags=dict(labels))

    def observe(self, name: str, labels: Mapping[str, str], value: float) -> None:
        self._histograms[name].observe(value, tags=dict(labels))
