from __future__ import annotations

import asyncio
import contextvars
import pickle
from collections.abc import Callable
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode
from starlette.testclient import TestClient

from cluster.errors import Unavailable
from serving import tracing
from serving.config import EmbedderConfig
from serving.deployments import EmbedderDeployment
from serving.handles import EmbedderHandle
from serving.scripted_parts import ScriptedApplication, ScriptedEmbedder, scripted_passage

SECRET = "sk-swordfish"
TRACE_ID, SPAN_ID = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.fixture
def exporter(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    """Where the spans of a test end up."""
    memory, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(memory))
    monkeypatch.setattr(tracing, "_tracer", provider.get_tracer("hamlet"))
    return memory


def named(exporter: InMemorySpanExporter, name: str) -> ReadableSpan:
    (span,) = [span for span in exporter.get_finished_spans() if span.name == name]
    return span


def children(exporter: InMemorySpanExporter, span: ReadableSpan) -> list[str]:
    spans = exporter.get_finished_spans()
    return [one.name for one in spans if one.parent and one.parent.span_id == span.get_span_context().span_id]


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_is_a_span_with_its_stages_below(
    world: ScriptedApplication, chat: Callable[..., Any], exporter: InMemorySpanExporter, stream: bool
) -> None:
    world.retriever.by_tenant["default"] = [scripted_passage(1, "fact")]
    response = chat("Hi", model="smollm2+rag", stream=stream)
    request = named(exporter, "POST /v1/chat/completions")
    assert children(exporter, request) == ["route", "embed", "search", "generate"]
    assert request.attributes is not None
    assert request.attributes["hamlet.request_id"] == response.headers["x-request-id"]
    assert request.attributes["http.response.status_code"] == 200
    assert request.attributes["hamlet.route"] == "rag"
    assert request.attributes["gen_ai.usage.output_tokens"] == 4


def test_the_callers_trace_is_taken_over(world: ScriptedApplication, exporter: InMemorySpanExporter) -> None:
    headers = {"traceparent": f"00-{TRACE_ID}-{SPAN_ID}-01"}
    TestClient(world.app).get("/v1/models", headers=headers)
    request = named(exporter, "GET /v1/models")
    assert request.parent is not None
    assert (f"{request.parent.trace_id:032x}", f"{request.parent.span_id:016x}") == (TRACE_ID, SPAN_ID)


def test_a_failed_stage_is_marked_by_the_type_of_its_error(
    world: ScriptedApplication, chat: Callable[..., Any], exporter: InMemorySpanExporter
) -> None:
    world.engine.fail_after_steps = 0
    assert chat().status_code == 503
    for name in ("generate", "POST /v1/chat/completions"):
        assert named(exporter, name).status.status_code is StatusCode.ERROR
    attributes = named(exporter, "generate").attributes
    assert attributes is not None
    assert attributes["error.type"] == "Unavailable"


@pytest.mark.parametrize("failure", [None, Unavailable(f"down: {SECRET}")])
def test_no_text_of_a_request_or_an_error_is_in_a_span(
    world: ScriptedApplication,
    post: Callable[..., Any],
    exporter: InMemorySpanExporter,
    failure: Unavailable | None,
) -> None:
    assert isinstance(world.embedder, ScriptedEmbedder)
    world.embedder.failure = failure
    messages = [{"role": "user", "content": SECRET}]
    post("/v1/chat/completions", model="smollm2+rag", messages=messages)
    post("/v1/chat/completions", model=SECRET, messages=messages)
    post("/v1/embeddings", model="minilm", input=SECRET)
    spans = exporter.get_finished_spans()
    assert len(spans) > 4
    assert not [span.name for span in spans if SECRET in span.to_json()]


def test_probes_are_not_traced(world: ScriptedApplication, exporter: InMemorySpanExporter) -> None:
    for path in ("/healthz", "/readyz"):
        TestClient(world.app).get(path)
    assert exporter.get_finished_spans() == ()


class OtherProcess:
    """A handle: what is called runs with what was pickled, and in a context of its own."""

    def __init__(self, replica: Any) -> None:
        self._replica = replica

    def __getattr__(self, method: str) -> Any:
        return _Calls(getattr(self._replica, method))


class _Calls:
    def __init__(self, method: Any) -> None:
        self._method = method

    def remote(self, *args: Any, **kwargs: Any) -> asyncio.Task[Any]:
        args, kwargs = pickle.loads(pickle.dumps((args, kwargs)))
        return asyncio.get_running_loop().create_task(
            self._method(*args, **kwargs), context=contextvars.Context()
        )


@pytest.fixture
def embedder() -> EmbedderHandle:
    replica = EmbedderDeployment.__new__(EmbedderDeployment)
    replica._embedder = ScriptedEmbedder()  # type: ignore[assignment]
    return EmbedderHandle(OtherProcess(replica), "embedder", 5.0, EmbedderConfig())


def test_a_call_to_another_deployment_goes_on_with_the_trace(
    embedder: EmbedderHandle, exporter: InMemorySpanExporter
) -> None:
    async def stage() -> None:
        span = tracing.start("embed")
        with tracing.current(span):
            await embedder.embed(["a"])
        span.end()

    asyncio.run(stage())
    assert children(exporter, named(exporter, "embed")) == ["embedder.embed"]


def test_a_call_without_a_trace_begins_none(embedder: EmbedderHandle, exporter: InMemorySpanExporter) -> None:
    asyncio.run(embedder.embed(["a"]))
    assert exporter.get_finished_spans() == ()


@pytest.mark.parametrize("variable", ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"])
def test_tracing_is_off_until_the_environment_says_where_to(
    monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setattr(tracing, "_tracer", None)
    tracing.set_up_tracing("router")
    assert not tracing.start("a").is_recording()
    monkeypatch.setenv(variable, "http://127.0.0.1:1")
    tracing.set_up_tracing("router")
    assert tracing.start("a").is_recording()
