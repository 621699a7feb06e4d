"""OpenTelemetry spans of a request, in the router and in the parts that it calls.

    POST /v1/chat/completions               the request, below the caller's own span where it sent `traceparent`
        embed, search, generate …           the stages of the answer
            embedder.embed, generator.run   the call, in the replica that works on it

Switched on by OTEL_EXPORTER_OTLP_ENDPOINT or OTEL_EXPORTER_OTLP_TRACES_ENDPOINT; the rest of OTEL_* (headers,
sampling, batches) the SDK reads by itself. Spans hold ids, names, counts and statuses: never a text of a request,
and of an error its type alone. Hence a provider of our own, since libraries add spans to the process's, and not
Serve's tracing, which records the texts of errors.
"""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

from opentelemetry import trace
from opentelemetry.trace import INVALID_SPAN, Span, SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

log = logging.getLogger(__name__)

Carrier = Mapping[str, str]
Method = TypeVar("Method", bound=Callable[..., Awaitable[Any]])

NO_SPAN = INVALID_SPAN
_W3C = TraceContextTextMapPropagator()
_tracer: trace.Tracer | None = None  # None: nothing is traced, and nothing is spent on it


def set_up_tracing(deployment: str) -> None:
    """Export the spans of this process as those of a part, where the environment says to whom."""
    global _tracer
    if not any(os.environ.get(f"OTEL_EXPORTER_OTLP_{name}") for name in ("ENDPOINT", "TRACES_ENDPOINT")):
        return
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    except ImportError:
        log.warning("nothing is traced: the exporter is missing; pip install 'hamlet[tracing]'")
        return
    resource = Resource.create({"service.namespace": "hamlet", "service.name": f"hamlet-{deployment}"})
    provider = TracerProvider(resource=resource)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    _tracer = provider.get_tracer("hamlet")


def start(name: str, parent: Carrier | None = None, kind: SpanKind = SpanKind.INTERNAL) -> Span:
    """A span that has begun; its maker ends it. Below the one that `parent` carries, else the current one."""
    if _tracer is None:
        return NO_SPAN
    return _tracer.start_span(name, _W3C.extract(parent) if parent else None, kind)


@contextmanager
def current(span: Span) -> Iterator[None]:
    """What begins while this is entered is a part of `span`, which is marked when it fails."""
    if span is NO_SPAN:
        yield
        return
    try:
        with trace.use_span(span, record_exception=False, set_status_on_exception=False):
            yield
    except BaseException as exc:
        span.set_attribute("error.type", type(exc).__name__)
        span.set_status(StatusCode.ERROR)
        raise


def carried() -> dict[str, Carrier]:
    """The current span as the keyword argument of a `continued` method elsewhere; nothing when none is traced."""
    if _tracer is None:
        return {}
    carrier: dict[str, str] = {}
    _W3C.inject(carrier)
    return {"parent": carrier} if carrier else {}


def continued(method: Method) -> Method:
    """A replica's method whose calls are spans below the caller's; one that carries none is not traced.

    `EmbedderDeployment.embed` is the span `embedder.embed`.
    """
    name = method.__qualname__.lower().replace("deployment", "")

    @functools.wraps(method)
    async def call(*args: Any, parent: Carrier | None = None, **kwargs: Any) -> Any:
        if not parent:
            return await method(*args, **kwargs)
        span = start(name, parent, SpanKind.SERVER)
        try:
            with current(span):
                return await method(*args, **kwargs)
        finally:
            span.end()

    return call  # type: ignore[return-value]


def tell(attributes: Mapping[str, str | int | float | bool]) -> None:
    """Add to the current span."""
    if _tracer is not None:
        trace.get_current_span().set_attributes(attributes)
