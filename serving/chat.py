"""One chat answer as the HTTP API sends it: whole, or event by event."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import nullcontext
from typing import Any

import orjson

from cluster.errors import HamletError, Unavailable
from serving import tracing
from serving.admission import Deadline
from serving.backends import Backends
from serving.engine import Delta
from serving.errors import error_body, internal_error
from serving.generator import Answer, Completion, PromptReport, Spend
from serving.metrics import Metrics, TokenTimes, count_tokens
from serving.prepared import Prepared
from serving.responses import (
    Envelope,
    chat_chunk,
    chat_completion,
    chunk_choice,
    delta_choice,
    usage,
)
from serving.schemas import ChatRequest

log = logging.getLogger(__name__)

DONE = b"data: [DONE]\n\n"

GenerationEvents = AsyncGenerator[PromptReport | list[Delta]]


def event(body: dict[str, Any]) -> bytes:
    """One server-sent event."""
    return b"data: " + orjson.dumps(body) + b"\n\n"


async def whole_answer(
    backends: Backends,
    request: ChatRequest,
    prepared: Prepared,
    envelope: Envelope,
    metrics: Metrics,
    spend: Spend,
) -> dict[str, Any]:
    """The body of a `chat.completion`; `spend` is told its tokens as they come."""
    if prepared.ready is None:
        try:
            with prepared.stages.measure("generate"):
                completion = await backends.generator_of(prepared.model).complete(prepared.job, spend)
        except Unavailable as exc:
            instead, envelope = _instead(prepared, envelope, exc)
            return await whole_answer(backends, request, instead, envelope, metrics, spend)
    else:
        completion = Completion(PromptReport(0), (Answer(prepared.ready, 0, "stop"),) * request.n)
    annotations = [prepared.annotations(answer.text, completion.report) for answer in completion.answers]
    num_tokens = sum(answer.num_tokens for answer in completion.answers)
    observe_answer(metrics, prepared, completion.report, num_tokens)
    return chat_completion(
        envelope,
        completion,
        annotations,
        request.logprobs,
        prepared.extension(completion.report),
        prepared.text_field,
    )


def _instead(prepared: Prepared, envelope: Envelope, fault: Unavailable) -> tuple[Prepared, Envelope]:
    """The answer in place of one whose model is down. Raises the fault where there is none."""
    instead = prepared.instead
    if instead is None:
        raise fault
    log.warning("request %s: %s answers: %s", prepared.job.request_id, instead.model.name, fault)
    return instead, envelope._replace(model=instead.model.name)


def observe_answer(
    metrics: Metrics, prepared: Prepared, report: PromptReport, num_completion_tokens: int
) -> None:
    """Count a finished answer: its route, its stages, its tokens; its trace is told them too."""
    model = prepared.model.name
    route, degraded = prepared.route.kind.value, str(prepared.route.degraded).lower()
    tracing.tell(
        {
            "hamlet.route": route,
            "hamlet.degraded": prepared.route.degraded,
            "gen_ai.response.model": model,
            "gen_ai.usage.input_tokens": report.num_prompt_tokens,
            "gen_ai.usage.output_tokens": num_completion_tokens,
        }
    )
    metrics.count("answers", {"route": route, "degraded": degraded})
    count_tokens(metrics, model, report.num_prompt_tokens, num_completion_tokens)
    for stage, ms in prepared.stages.ms.items():
        metrics.observe("stage_ms", {"stage": stage}, ms)


async def opened(
    events: GenerationEvents, spend: Spend, deadline: Deadline
) -> tuple[PromptReport, GenerationEvents]:
    """The report of a generation that is known to have started, and the deltas that follow.

    They raise Unavailable once the time is over. Waits for the first of them, so that what fails before it is
    answered with a status of its own and not inside of a stream. `spend` is told the tokens of the prompt before,
    as the caller may leave while it is read.
    """
    try:
        report = await anext(events)
        assert isinstance(report, PromptReport)
        spend(report.num_prompt_tokens)
        first = await anext(events)
    except BaseException:
        await events.aclose()
        raise
    return report, _resumed(first, events, deadline)


async def _resumed(
    first: PromptReport | list[Delta], events: GenerationEvents, deadline: Deadline
) -> GenerationEvents:
    try:
        yield first
        while True:
            async with deadline.kept():
                item = await anext(events, None)
            if item is None:
                return
            yield item
    finally:
        await events.aclose()


async def ready_events(text: str, count: int) -> GenerationEvents:
    """An answer that needs no generator, as if generated."""
    yield PromptReport(0)
    yield [Delta(index, text, 0, "stop") for index in range(count)]


async def stream_chat(
    backends: Backends,
    request: ChatRequest,
    prepared: Prepared,
    envelope: Envelope,
    metrics: Metrics,
    spend: Spend,
    deadline: Deadline,
) -> AsyncGenerator[bytes]:
    """The server-sent events of a streamed answer; returns once the generation has started.

    `spend` is told the tokens of the prompt and of the answer, also of one that the client left early.
    """
    stage = prepared.stages.begin("generate") if prepared.ready is None else None
    times = TokenTimes(metrics, prepared.model.name)
    try:
        with stage.current() if stage else nullcontext():
            if prepared.ready is None:
                events = backends.generator_of(prepared.model).stream(prepared.job)
            else:
                events = ready_events(prepared.ready, request.n)
            report, deltas = await opened(events, spend, deadline)
    except Unavailable as exc:
        instead, envelope = _instead(prepared, envelope, exc)
        return await stream_chat(backends, request, instead, envelope, metrics, spend, deadline)
    if prepared.ready is None:
        tracing.tell({"hamlet.first_token_ms": round(times.first(), 3)})

    def ended(num_tokens: int) -> None:
        if stage:
            stage.end()
        times.last(num_tokens, request.n)
        observe_answer(metrics, prepared, report, num_tokens)

    def left(num_tokens: int) -> None:
        if stage:
            stage.end()
        spend(num_tokens)

    chunks = _chat_events(deltas, report, request, prepared, envelope, ended, left)
    return guarded(chunks, prepared.job.request_id)


async def _chat_events(
    events: GenerationEvents,
    report: PromptReport,
    request: ChatRequest,
    prepared: Prepared,
    envelope: Envelope,
    ended: Callable[[int], None],
    spend: Spend,
) -> AsyncGenerator[bytes]:
    """Each index begins with its role and ends with a chunk that holds its finish reason and citations.

    One choice a chunk, as many clients read only the first. The very last choice also holds `hamlet`.
    """
    include_usage = request.include_usage
    texts = [""] * request.n
    num_tokens = 0
    num_unfinished = request.n

    def chunk(choice: dict[str, Any]) -> dict[str, Any]:
        return chat_chunk(envelope, [choice], include_usage)

    try:
        for index in range(request.n):
            yield event(chunk(chunk_choice(index, {"role": "assistant", "content": ""})))
        async for deltas in events:
            assert not isinstance(deltas, PromptReport)
            for delta in deltas:
                num_tokens += delta.num_tokens
                texts[delta.index] += delta.text
                if delta.text or delta.calls or (request.logprobs and delta.logprobs):
                    yield event(chunk(delta_choice(delta, request.logprobs, prepared.text_field)))
                if delta.finish_reason is None:
                    continue
                num_unfinished -= 1
                citations = prepared.annotations(texts[delta.index], report)
                last = {"annotations": citations} if citations else {}
                body = chunk(chunk_choice(delta.index, last, delta.finish_reason))
                if num_unfinished == 0:
                    ended(num_tokens)
                    body["hamlet"] = prepared.extension(report)
                yield event(body)
        if include_usage:
            yield event(chat_chunk(envelope, [], True, usage(report.num_prompt_tokens, num_tokens)))
        yield DONE
    finally:
        spend(num_tokens)
        await events.aclose()


async def guarded(events: AsyncGenerator[bytes], request_id: str) -> AsyncGenerator[bytes]:
    """`events`, a fault on the way told as an error object, after which there is no `[DONE]`."""
    try:
        async for item in events:
            yield item
    except HamletError as exc:
        log.warning("request %s: broke off: %s", request_id, exc)
        yield event(error_body(exc))
    except Exception:
        log.exception("request %s: broke off", request_id)
        yield event(error_body(internal_error(request_id)))
    finally:
        await events.aclose()
