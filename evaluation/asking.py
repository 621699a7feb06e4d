"""Asking every question of every cell over HTTP, and keeping every answer.

The file of answers is the state: it is appended to and synced answer by answer, so that a comparison that
was interrupted goes on where it stopped.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import httpx
import openai
from openai import AsyncOpenAI
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cluster.errors import DataError, HamletError, InvalidInput, NotFound, Unavailable
from evaluation.config import CompareConfig
from evaluation.questions import Question

GO_ON = "answers so far are kept; run the same command again to go on"


class Hit(BaseModel):
    """A passage that was put in the prompt. `score` is a cosine similarity."""

    model_config = ConfigDict(frozen=True)

    filename: str
    text: str = ""
    score: float = 0.0


class Answer(BaseModel):
    """One answered question, as the client saw it. Times are in milliseconds from sending the request."""

    model_config = ConfigDict(frozen=True)

    cell: str
    question_id: str
    request: str = Field(description="Fingerprint of what was asked, so that another request is asked anew.")
    model: str = Field(description="Model name in the response.")
    text: str
    route: str = ""
    cited: tuple[str, ...] = Field((), description="File names cited.")
    hits: tuple[Hit, ...] = ()
    ttft_ms: float
    total_ms: float
    stage_ms: dict[str, float] = {}
    prompt_tokens: int = 0
    completion_tokens: int = 0
    finish_reason: str = ""

    @property
    def hit_documents(self) -> set[str]:
        return {hit.filename for hit in self.hits}


class Request(NamedTuple):
    """One question for one cell."""

    cell: str
    model: str
    system_prompt: str
    question: Question
    max_tokens: int
    seed: int

    @property
    def messages(self) -> list[Any]:
        """As the openai client takes them, whose own types are a union of six."""
        system = [{"role": "system", "content": self.system_prompt}] if self.system_prompt else []
        return [*system, {"role": "user", "content": self.question.question}]

    @property
    def fingerprint(self) -> str:
        asked = json.dumps([self.model, self.messages, self.max_tokens, self.seed])
        return hashlib.sha256(asked.encode()).hexdigest()[:16]


class AnswerLog:
    """Answers in a JSONL file. Appending returns when the line is on the disk."""

    def __init__(self, path: Path) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._answers = {(answer.cell, answer.question_id): answer for answer in _read(path)}
        self._file = path.open("ab")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def append(self, answer: Answer) -> None:
        self._file.write(answer.model_dump_json().encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        self._answers[answer.cell, answer.question_id] = answer

    def find(self, request: Request) -> Answer | None:
        """The answer to exactly this request, if it was given before."""
        answer = self._answers.get((request.cell, request.question.id))
        return answer if answer is not None and answer.request == request.fingerprint else None


def _read(path: Path) -> list[Answer]:
    """All whole lines; a last line that a crash cut short is taken off the file."""
    if not path.exists():
        return []
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content):
        os.truncate(path, len(whole))
    try:
        return [Answer.model_validate_json(line) for line in whole.splitlines()]
    except ValidationError as exc:
        raise DataError(f"{path} is not a file of answers; give another output folder") from exc


def requests_of(config: CompareConfig, questions: Iterable[Question]) -> list[Request]:
    """Every question of every cell; the cells of one question stand together.

    So a machine that grows slower or busier in the course of a run does so for all cells alike.
    """
    return [
        Request(cell, model, config.system_prompts.get(cell, ""), question, config.max_tokens, config.seed)
        for question in questions
        for cell, model in config.cells.items()
    ]


def ask_all(
    config: CompareConfig,
    requests: Sequence[Request],
    log: AnswerLog,
    on_answer: Callable[[Answer], None],
) -> list[Answer]:
    """Answers in the order of `requests`; those in the log are not asked again.

    Raises Unavailable when the service does not answer, NotFound for an unknown model, InvalidInput for a
    request that it refuses. What was answered until then is in the log.
    """
    missing = [request for request in requests if log.find(request) is None]
    asyncio.run(_ask_missing(config, missing, log, on_answer))
    return [answer for request in requests if (answer := log.find(request)) is not None]


async def _ask_missing(
    config: CompareConfig, missing: Sequence[Request], log: AnswerLog, on_answer: Callable[[Answer], None]
) -> None:
    queue = iter(missing)  # shared by the workers, which all run in this thread
    async with AsyncOpenAI(
        base_url=config.base_url,
        api_key=os.environ.get("OPENAI_API_KEY", "unused"),
        timeout=config.timeout_s,
        max_retries=config.max_retries,  # the client waits as Retry-After says
    ) as client:

        async def work() -> None:
            for request in queue:
                answer = await _ask(client, request)
                log.append(answer)
                on_answer(answer)

        workers = [asyncio.create_task(work()) for _ in range(config.concurrency)]
        try:
            await asyncio.gather(*workers)
        except openai.APIError as exc:
            raise _translated(exc, config.base_url) from exc
        except httpx.HTTPError as exc:  # the stream broke off: past what the client tries again
            raise Unavailable(f"{config.base_url} broke off: {exc!r}; {GO_ON}") from exc
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)


async def _ask(client: AsyncOpenAI, request: Request) -> Answer:
    """Ask one question, streamed, since only a stream shows when the first token came."""
    sent_at = time.perf_counter()
    stream: Any = await client.chat.completions.create(
        model=request.model,
        messages=request.messages,
        max_tokens=request.max_tokens,
        temperature=0,
        seed=request.seed,
        stream=True,
        stream_options={"include_usage": True},
    )
    heard = _Heard()
    async for chunk in stream:
        heard.add(chunk, (time.perf_counter() - sent_at) * 1000)
    total_ms = (time.perf_counter() - sent_at) * 1000
    return heard.answer(request, total_ms)


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
                self._cited.append(note["file_citation"]["filename"])

    def answer(self, request: Request, total_ms: float) -> Answer:
        return Answer(
            cell=request.cell,
            question_id=request.question.id,
            request=request.fingerprint,
            model=self._model,
            text="".join(self._parts).strip(),
            route=self._extension.get("route") or "",
            cited=tuple(dict.fromkeys(self._cited)),
            hits=tuple(Hit.model_validate(hit) for hit in self._extension.get("hits") or []),
            ttft_ms=total_ms if self._ttft_ms is None else self._ttft_ms,
            total_ms=total_ms,
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
