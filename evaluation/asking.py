"""Asking questions over HTTP, several at once, as any client would."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from typing import Any

import httpx
import openai
from openai import AsyncOpenAI, OpenAI

from cluster.errors import HamletError, InvalidInput, NotFound, Unavailable
from cluster.router_policy import AUTO
from evaluation.answers import Answer, AnswerLog, Hit, Request
from evaluation.config import CompareConfig, ServiceConfig, retrieves
from evaluation.questions import Question

GO_ON = "when it answers, run the same command again: a comparison keeps the answers it has"


def cell_request(
    config: CompareConfig,
    cell: str,
    model: str,
    question: Question,
    collection: str | None,
    documents: str = "",
    variant: str = "",
) -> Request:
    """A question for a cell by the name of its model, which searches `collection` if it retrieves at all.

    `documents` is the digest of what lies in there.
    """
    return Request(
        cell,
        model,
        config.system_prompts.get(cell, ""),
        question,
        config.max_tokens,
        config.seed,
        variant,
        collection if retrieves(model) else None,
        config.base_url,
        documents if retrieves(model) or model == AUTO else "",
    )


def wait_until_ready(config: ServiceConfig) -> None:
    """Wait for the service. Raises Unavailable, with what it says is not ready, when the time is over.

    A service that knows no `/readyz`, such as another server with OpenAI's API, is ready when it lists its models.
    """
    until = time.monotonic() + config.ready_timeout_s
    while state := _what_is_not_ready(config.base_url.removesuffix("/")):
        if time.monotonic() > until:
            raise Unavailable(
                f"{config.base_url} is not ready: {state}; "
                "RAY_AUTH_MODE=token serve deploy examples/serve.yaml starts it"
            )
        time.sleep(0.5)


def _what_is_not_ready(base_url: str) -> str:
    """What the service says of itself, or why it does not answer; nothing when it is ready."""
    try:
        response = httpx.get(base_url.removesuffix("/v1") + "/readyz", timeout=10)
        if response.status_code == 404:
            # Other servers know no such path. Ray Serve knows no path at all until it has loaded the application.
            response = httpx.get(f"{base_url}/models", timeout=10)
    except httpx.HTTPError as exc:
        return str(exc) or type(exc).__name__
    return f"{response.status_code} {response.text[:300]}" if response.status_code in {404, 503} else ""


def _options(config: ServiceConfig) -> dict[str, Any]:
    """Of a client, which wants a key even where the service asks for none, and waits as Retry-After says."""
    return {
        "base_url": config.base_url,
        "api_key": os.environ.get(config.api_key_env, "unused"),
        "timeout": config.timeout_s,
        "max_retries": config.max_retries,
    }


def first_model(config: ServiceConfig) -> str:
    """The first model that the service lists: of ours, the base that it was deployed with. Errors as `ask_all`."""
    try:
        with OpenAI(**_options(config)) as client:
            return client.models.list().data[0].id
    except openai.APIError as exc:
        raise _translated(exc, config.base_url) from exc
    except IndexError as exc:
        raise NotFound(f"{config.base_url} lists no model; deploy one") from exc


def ask_all(
    config: ServiceConfig,
    requests: Sequence[Request],
    log: AnswerLog,
    on_answer: Callable[[Answer], None],
) -> list[Answer]:
    """Answers in the order of `requests`; those in the log are not asked again.

    Raises Unavailable when the service does not answer, NotFound for an unknown model, InvalidInput for a
    request that it refuses. What was answered until then is in the log.
    """

    def keep(answer: Answer) -> None:
        log.append(answer)
        on_answer(answer)

    missing = [request for request in requests if log.find(request) is None]
    asyncio.run(_ask(config, missing, keep, config.concurrency))
    return [answer for request in requests if (answer := log.find(request)) is not None]


def ask_again(config: ServiceConfig, requests: Sequence[Request], at_once: int) -> list[Answer]:
    """Answers as they come, asked whether or not they are known: for measuring times. Errors as `ask_all`."""
    answers: list[Answer] = []
    asyncio.run(_ask(config, requests, answers.append, at_once))
    return answers


def search_all(
    config: ServiceConfig, collection: str, queries: Sequence[str], num_hits: int
) -> list[list[str]]:
    """The passages that the service finds for each query, the best first. Errors as `ask_all`."""
    return asyncio.run(_search(config, f"vs_{collection}", queries, num_hits))


async def _search(
    config: ServiceConfig, store_id: str, queries: Sequence[str], num_hits: int
) -> list[list[str]]:
    found: dict[int, list[str]] = {}
    queue = iter(enumerate(queries))  # shared by the workers, which all run in this thread

    async def work(client: AsyncOpenAI) -> None:
        for number, query in queue:
            page = await client.vector_stores.search(store_id, query=query, max_num_results=num_hits)
            found[number] = ["\n".join(part.text for part in hit.content) for hit in page.data]

    await _at_once(config, work, config.concurrency)
    return [found[number] for number in range(len(queries))]


async def _ask(
    config: ServiceConfig, requests: Sequence[Request], keep: Callable[[Answer], None], at_once: int
) -> None:
    queue = iter(requests)  # shared by the workers, which all run in this thread
    at_once = min(at_once, len(requests))

    async def work(client: AsyncOpenAI) -> None:
        for request in queue:
            try:
                keep(await _whole_answer(client, request, at_once))
            except openai.BadRequestError as exc:
                # The others are not at fault, and asking again would not help.
                raise InvalidInput(
                    f"{config.base_url} refuses question {request.question.id} of cell {request.cell}: {exc.message}; "
                    "change or remove it, and run the same command again",
                    "questions",
                ) from exc

    await _at_once(config, work, at_once)


async def _at_once(
    config: ServiceConfig, work: Callable[[AsyncOpenAI], Coroutine[Any, Any, None]], num_workers: int
) -> None:
    """Several workers with one client, until all are done or one has failed."""
    async with AsyncOpenAI(**_options(config)) as client:
        workers = [asyncio.create_task(work(client)) for _ in range(num_workers)]
        try:
            await asyncio.gather(*workers)
        except openai.APIError as exc:
            raise _translated(exc, config.base_url) from exc
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)


class _BrokenOff(Unavailable):
    """An answer that began and did not end."""


async def _whole_answer(client: AsyncOpenAI, request: Request, at_once: int) -> Answer:
    """The client asks again by itself where nothing has come yet; this does where the answer broke off."""
    for _ in range(client.max_retries):
        with suppress(_BrokenOff):
            return await _ask_one(client, request, at_once)
    return await _ask_one(client, request, at_once)


async def _ask_one(client: AsyncOpenAI, request: Request, at_once: int) -> Answer:
    """Ask one question, streamed, since only a stream shows when the first token came. Raises _BrokenOff."""
    sent_at = time.perf_counter()
    stream: Any = await client.chat.completions.create(
        model=request.model,
        messages=request.messages,
        max_tokens=request.max_tokens,
        temperature=0,
        seed=request.seed,
        stream=True,
        stream_options={"include_usage": True},
        extra_body={"hamlet": {"collection": request.collection}} if request.collection else None,
    )
    heard = _Heard()
    try:
        async for chunk in stream:
            heard.add(chunk, (time.perf_counter() - sent_at) * 1000)
    except openai.APIConnectionError as exc:
        raise _BrokenOff(f"{request.base_url} breaks off its answers: {exc.message}; {GO_ON}") from exc
    if not heard.is_whole:
        raise _BrokenOff(f"{request.base_url} breaks off its answers: no finish_reason came; {GO_ON}")
    total_ms = (time.perf_counter() - sent_at) * 1000
    return heard.answer(request, total_ms, at_once)


class _Heard:
    """A stream, put together."""

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._cited: list[str] = []
        self._extension: dict[str, Any] = {}
        self._tokens = (0, 0)
        self._ttft_ms: float | None = None
        self._model = self._finish_reason = ""

    def add(self, chunk: Any, at_ms: float) -> None:
        self._model = chunk.model or self._model
        self._extension |= (chunk.model_extra or {}).get("hamlet") or {}
        if chunk.usage is not None:
            self._tokens = (chunk.usage.prompt_tokens, chunk.usage.completion_tokens)
        for choice in chunk.choices:
            if choice.delta.content:
                self._ttft_ms = at_ms if self._ttft_ms is None else self._ttft_ms
                self._parts.append(choice.delta.content)
            self._finish_reason = choice.finish_reason or self._finish_reason
            for note in (choice.delta.model_extra or {}).get("annotations") or []:
                # Other services also cite pages of the web.
                if "file_citation" in note:
                    self._cited.append(note["file_citation"]["filename"])

    @property
    def is_whole(self) -> bool:
        return bool(self._finish_reason)

    def answer(self, request: Request, total_ms: float, at_once: int) -> Answer:
        return Answer(
            cell=request.cell,
            question_id=request.question.id,
            variant=request.variant,
            request=request.fingerprint,
            model=self._model,
            text="".join(self._parts).strip(),
            route=self._extension.get("route") or "",
            cited=tuple(dict.fromkeys(self._cited)),
            hits=tuple(Hit.model_validate(hit) for hit in self._extension.get("hits") or []),
            ttft_ms=total_ms if self._ttft_ms is None else self._ttft_ms,
            total_ms=total_ms,
            at_once=at_once,
            stage_ms=self._extension.get("stage_ms") or {},
            prompt_tokens=self._tokens[0],
            completion_tokens=self._tokens[1],
            finish_reason=self._finish_reason,
        )


def _translated(exc: openai.APIError, base_url: str) -> HamletError:
    if isinstance(exc, openai.NotFoundError):
        return NotFound(f"{base_url}: {exc.message}; see {base_url}/models", "cells")
    if isinstance(exc, openai.APIStatusError) and exc.status_code < 500 and exc.status_code != 429:
        return InvalidInput(f"{base_url} refuses the question: {exc.message}", "cells")
    return Unavailable(f"{base_url} does not answer: {exc.message}; {GO_ON}")
