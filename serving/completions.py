"""Plain completions as the HTTP API sends them: bare prompts, no template, no retrieval."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Any

from cluster.errors import InvalidInput
from serving.admission import Deadline
from serving.backends import GeneratorBackend
from serving.catalogue import ServedModel
from serving.chat import DONE, GenerationEvents, event, guarded, opened
from serving.generator import Completion, GenerationJob, PromptReport, Spend
from serving.metrics import Metrics, TokenTimes, count_tokens
from serving.responses import Envelope, text_choice, text_chunk, text_completion, text_logprobs, usage
from serving.schemas import CompletionRequest

# Of one request: a quarter of an engine's batch by default, the rest is for others.
PROMPTS_AT_ONCE = 16


def text_jobs(request: CompletionRequest, model: ServedModel, request_id: str) -> list[GenerationJob]:
    """One job for each prompt. Raises InvalidInput where several prompts are to be streamed."""
    prompts = request.prompts
    if request.stream and len(prompts) > 1:
        raise InvalidInput("several prompts cannot be streamed; send one, or stream: false", "prompt")
    return [
        GenerationJob(
            f"{request_id}-{number}",
            prompt=prompt,
            max_tokens=request.max_tokens,
            sampling=request.sampling(),
            adapter=model.adapter,
        )
        for number, prompt in enumerate(prompts)
    ]


async def whole_text(
    generator: GeneratorBackend,
    request: CompletionRequest,
    jobs: Sequence[GenerationJob],
    envelope: Envelope,
    metrics: Metrics,
    spend: Spend,
) -> dict[str, Any]:
    """The body of a `text_completion`, as `whole_answer`.

    PROMPTS_AT_ONCE are generated at a time, and all are given up together.
    """
    places = asyncio.Semaphore(PROMPTS_AT_ONCE)

    async def complete(job: GenerationJob) -> Completion:
        async with places:
            return await generator.complete(job, spend)

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(complete(job)) for job in jobs]
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from failures  # the first, on which the others were given up
    body = text_completion(envelope, [task.result() for task in tasks], request.logprobs is not None)
    count_tokens(metrics, envelope.model, body["usage"]["prompt_tokens"], body["usage"]["completion_tokens"])
    return body


async def stream_text(
    generator: GeneratorBackend,
    request: CompletionRequest,
    job: GenerationJob,
    envelope: Envelope,
    metrics: Metrics,
    spend: Spend,
    deadline: Deadline,
) -> AsyncGenerator[bytes]:
    """The server-sent events of a streamed completion, as `stream_chat`."""
    times = TokenTimes(metrics, envelope.model)
    report, deltas = await opened(generator.stream(job), spend, deadline)
    times.first()

    def ended(num_tokens: int) -> None:
        times.last(num_tokens, request.n)
        count_tokens(metrics, envelope.model, report.num_prompt_tokens, num_tokens)

    return guarded(_text_events(deltas, report, request, envelope, ended, spend), job.request_id)


async def _text_events(
    events: GenerationEvents,
    report: PromptReport,
    request: CompletionRequest,
    envelope: Envelope,
    ended: Callable[[int], None],
    spend: Spend,
) -> AsyncGenerator[bytes]:
    num_tokens = 0
    offsets = [0] * request.n
    try:
        async for deltas in events:
            assert not isinstance(deltas, PromptReport)
            for delta in deltas:
                num_tokens += delta.num_tokens
                tokens = delta.logprobs if request.logprobs is not None else ()
                if delta.text or delta.finish_reason or tokens:
                    logprobs = text_logprobs(tokens, offsets[delta.index]) if tokens else None
                    offsets[delta.index] += sum(len(token.token) for token in tokens)
                    choice = text_choice(delta.index, delta.text, delta.finish_reason, logprobs)
                    yield event(text_chunk(envelope, [choice], request.include_usage))
        ended(num_tokens)
        if request.include_usage:
            yield event(text_chunk(envelope, [], True, usage(report.num_prompt_tokens, num_tokens)))
        yield DONE
    finally:
        spend(num_tokens)
        await events.aclose()
