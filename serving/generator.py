"""A served language model: an engine, its tokenizer, and the rules between a request and the engine.

Rules kept here: what fits the context and what is refused, how long an answer may be, and that several
greedy answers are one answer. Runs as a Serve deployment, and in tests without Ray.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

from cluster.errors import ContextLengthExceeded, InvalidInput
from serving.config import GeneratorConfig
from serving.engine import (
    Adapter,
    CallDelta,
    Delta,
    FinishReason,
    GenerationEngine,
    Sampling,
    TokenLogprob,
)
from serving.prompts import Passage, fit, without_exchanges
from serving.tokenizer import Message, PromptRenderer

log = logging.getLogger(__name__)

DEFAULT_SAMPLING = Sampling()

# From here on tokenising takes longer than a step of the engine.
LONG_PROMPT_CHARS = 20_000
# What a template writes around a turn, roughly.
TURN_CHARS = 20

# An answer that a caller set no length for is cut down to this for the sake of a passage, and no further.
LEAST_GROUNDED_TOKENS = 32

# How often a whole answer tells how long it is: its caller may leave before its end, and is charged what was generated.
TOLD_EVERY_TOKENS = 16

# What an engine may lack: the parameter that asks for it, and what to do without.
FEATURES = {
    "logprobs": ("logprobs", "leave it out"),
    "json_schema": ("response_format", "leave it out"),
    "tools": ("tools", "leave it out, or set tool_parser of a generator that runs vLLM"),
}


@dataclass(frozen=True, slots=True)
class GenerationJob:
    """One request to generate: a conversation, or a bare prompt as text or token ids.

    `max_tokens_field` is the one that the caller sent `max_tokens` in, for what is said of it.
    """

    request_id: str
    messages: tuple[Message, ...] = ()
    prompt: str | tuple[int, ...] = ""
    passages: tuple[Passage, ...] = ()
    max_tokens: int | None = None
    max_tokens_field: str = "max_tokens"
    sampling: Sampling = DEFAULT_SAMPLING
    adapter: Adapter | None = None


@dataclass(frozen=True, slots=True)
class PromptReport:
    """What was sent to the engine. `num_passages` counts the best ones that were kept."""

    num_prompt_tokens: int
    num_passages: int = 0
    num_turns_dropped: int = 0


class ToolCall(NamedTuple):
    """One function call of an answer; `arguments` is the JSON text that the model wrote."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Answer:
    """One whole answer."""

    text: str
    num_tokens: int
    finish_reason: FinishReason
    logprobs: tuple[TokenLogprob, ...] = ()
    calls: tuple[ToolCall, ...] = ()


class Progress(NamedTuple):
    """Tokens that were generated since the last time this was told."""

    num_tokens: int


@dataclass(frozen=True, slots=True)
class Completion:
    """All answers to one job, by index."""

    report: PromptReport
    answers: tuple[Answer, ...]


Spend = Callable[[int], None]


def _free(_num_tokens: int) -> None:
    """For callers who are charged nothing."""


class Generator:
    """Answers jobs with one base model and any number of adapters."""

    def __init__(self, config: GeneratorConfig, engine: GenerationEngine, renderer: PromptRenderer) -> None:
        self._config = config
        self._engine = engine
        self._renderer = renderer

    async def stream(self, job: GenerationJob) -> AsyncGenerator[PromptReport | list[Delta]]:
        """First the report, then the deltas of each step.

        Raises InvalidInput for what the engine cannot do, ContextLengthExceeded when prompt and answer
        do not fit, and Unavailable when the engine fails.
        """
        self._require_features(job.sampling)
        prompt_token_ids, report = await self._prompt(job)
        max_tokens = answer_room(
            len(prompt_token_ids),
            job.max_tokens,
            self._engine.max_model_len_tokens,
            self._config.default_max_tokens,
            "messages" if job.messages else "prompt",
            job.max_tokens_field,
        )
        yield report
        # Several greedy answers are equal by definition: generate one, show it n times.
        copies = job.sampling.n if job.sampling.temperature == 0 else 1
        sampling = replace(job.sampling, n=1) if copies > 1 else job.sampling
        steps = self._engine.generate(job.request_id, prompt_token_ids, max_tokens, sampling, job.adapter)
        finished = False
        try:
            async for deltas in steps:
                if copies > 1:
                    deltas = [replace(delta, index=i) for delta in deltas for i in range(copies)]
                if deltas:
                    yield deltas
            finished = True
        except asyncio.CancelledError:
            log.info("request %s: cancelled", job.request_id)
            raise
        finally:
            if not finished:
                await steps.aclose()

    async def run(self, job: GenerationJob) -> AsyncGenerator[PromptReport | Progress | Completion]:
        """First the report, once the job has been taken, then now and then the progress, at last everything at once."""
        report = PromptReport(0)
        num_untold = 0
        collected: list[list[Delta]] = [[] for _ in range(job.sampling.n)]
        async for event in self.stream(job):
            if isinstance(event, PromptReport):
                report = event
                yield report
            else:
                for delta in event:
                    collected[delta.index].append(delta)
                    num_untold += delta.num_tokens
                if num_untold >= TOLD_EVERY_TOKENS:
                    yield Progress(num_untold)
                    num_untold = 0
        yield Completion(report, tuple(map(_joined, collected)))

    async def complete(self, job: GenerationJob, spend: Spend = _free) -> Completion:
        """The whole of `stream` at once; `spend` as in `completed`."""
        return await completed(self.run(job), spend)

    async def check_health(self) -> None:
        await self._engine.check_health()

    async def close(self) -> None:
        await self._engine.close()

    def _require_features(self, sampling: Sampling) -> None:
        needs = {
            "logprobs": sampling.num_top_logprobs is not None,
            "json_schema": sampling.json_schema is not None,
            "tools": sampling.tools is not None,
        }
        for feature, needed in needs.items():
            if needed and feature not in self._engine.features:
                param, remedy = FEATURES[feature]
                raise InvalidInput(
                    f"this server's generation engine does not offer {param!r}; {remedy}",
                    param,
                    "unsupported_parameter",
                )

    async def _prompt(self, job: GenerationJob) -> tuple[list[int], PromptReport]:
        # Seconds of tokenising must not hold up the answers of others; a short prompt is made sooner than a thread.
        if num_chars(job) > LONG_PROMPT_CHARS:
            return await asyncio.to_thread(self._tokenised, job)
        return self._tokenised(job)

    def _tokenised(self, job: GenerationJob) -> tuple[list[int], PromptReport]:
        if not job.messages:
            ids = list(job.prompt) if isinstance(job.prompt, tuple) else self._renderer.encode(job.prompt)
            return ids, PromptReport(len(ids))
        if not job.passages:
            ids = self._render(job, job.messages)
            return ids, PromptReport(len(ids))
        return self._grounded_prompt(job)

    def _render(self, job: GenerationJob, messages: Sequence[Message]) -> list[int]:
        """The prompt of these messages, with the template and the tools of the job."""
        template = job.adapter.chat_template if job.adapter else None
        tools = job.sampling.tools.tools if job.sampling.tools else ()
        return self._renderer.render(messages, template, tools)

    def _grounded_prompt(self, job: GenerationJob) -> tuple[list[int], PromptReport]:
        context = self._engine.max_model_len_tokens
        rooms = answer_rooms(job.max_tokens, self._config.default_max_tokens)
        fitted = fit(
            job.messages, job.passages, partial(self._render, job), [context - room for room in rooms]
        )
        if fitted is None:
            bare = len(self._render(job, without_exchanges(job.messages)))
            lower = f" or lower {job.max_tokens_field}" if job.max_tokens is not None else ""
            raise ContextLengthExceeded(
                f"the question and the system text take {bare} tokens and the answer at least {rooms[-1]}, together "
                f"more than the model's {context}; shorten them{lower}",
                job.max_tokens_field if lower and bare < context else "messages",
            )
        report = PromptReport(len(fitted.token_ids), fitted.num_passages, fitted.num_turns_dropped)
        return fitted.token_ids, report


async def completed(
    events: AsyncGenerator[PromptReport | list[Delta] | Progress | Completion], spend: Spend
) -> Completion:
    """What the events of `Generator.run` end with.

    `spend` is told the tokens of the prompt and of the answer as they come, so that a caller who leaves has been
    charged those up to then.
    """
    num_told = 0
    async with aclosing(events):
        async for event in events:
            assert not isinstance(event, list)  # of `stream` alone
            if isinstance(event, Completion):
                completion = event
                num_prompt = event.report.num_prompt_tokens
                num_new = num_prompt + sum(answer.num_tokens for answer in event.answers) - num_told
            else:
                num_new = event.num_prompt_tokens if isinstance(event, PromptReport) else event.num_tokens
            spend(num_new)
            num_told += num_new
    return completion


def num_chars(job: GenerationJob) -> int:
    """Length of everything that becomes the prompt; of turns, tools and their calls, roughly."""
    contents = [message.content for message in job.messages] + [passage.text for passage in job.passages]
    calls = [message.tool_calls for message in job.messages if message.tool_calls]
    turns = TURN_CHARS * len(job.messages) + sum(map(len, contents))
    return len(job.prompt) + turns + len(str((job.sampling.tools, calls)))


def answer_rooms(max_tokens: int | None, default: int) -> list[int]:
    """Tokens to keep for an answer beside passages, tried in turn until the best passage has room too.

    >>> answer_rooms(100, 512), answer_rooms(None, 200)
    ([100], [200, 100, 50, 32])
    """
    if max_tokens is not None:
        return [max_tokens]
    rooms = [default]
    while rooms[-1] > LEAST_GROUNDED_TOKENS:
        rooms.append(max(LEAST_GROUNDED_TOKENS, rooms[-1] // 2))
    return rooms


def answer_room(
    num_prompt_tokens: int,
    max_tokens: int | None,
    context: int,
    default: int,
    param: str,
    limit_param: str,
) -> int:
    """How many tokens the answer may have, all in tokens; always at least 1.

    Without `max_tokens` it is `default`, or what is left of the context when that is less. A
    `max_tokens` that does not fit is refused, as OpenAI does. Raises ContextLengthExceeded, which names `param`,
    the field that the prompt came in, or `limit_param`, that of `max_tokens`.
    """
    left = context - num_prompt_tokens
    if left < 1:
        raise ContextLengthExceeded(
            f"the prompt has {num_prompt_tokens} tokens and leaves no room for an answer in the model's "
            f"context of {context}; shorten the {param}",
            param,
        )
    if max_tokens is not None and max_tokens > left:
        raise ContextLengthExceeded(
            f"the prompt has {num_prompt_tokens} tokens and {limit_param} asks for {max_tokens}, together more "
            f"than the model's context of {context}; lower {limit_param} to {left} or shorten the {param}",
            limit_param,
        )
    return min(default, left) if max_tokens is None else max_tokens


def _joined(deltas: Sequence[Delta]) -> Answer:
    return Answer(
        text="".join(delta.text for delta in deltas),
        num_tokens=sum(delta.num_tokens for delta in deltas),
        finish_reason=next((delta.finish_reason for delta in deltas if delta.finish_reason), "stop"),
        logprobs=tuple(token for delta in deltas for token in delta.logprobs),
        calls=_joined_calls([call for delta in deltas for call in delta.calls]),
    )


def _joined_calls(pieces: Sequence[CallDelta]) -> tuple[ToolCall, ...]:
    """Whole calls, in the order of their numbers."""
    calls: dict[int, ToolCall] = {}
    for piece in pieces:
        before = calls.get(piece.number, ToolCall(piece.id or "", piece.name or "", ""))
        calls[piece.number] = before._replace(arguments=before.arguments + piece.arguments)
    return tuple(calls[number] for number in sorted(calls))
