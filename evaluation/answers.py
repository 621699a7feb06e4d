"""Requests, their answers, and the file that keeps every answer.

The file is the state: it is appended to and synced answer by answer, so that a comparison that was
interrupted goes on where it stopped.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cluster.errors import DataError
from evaluation.kept import writing
from evaluation.questions import Question


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
    variant: str = Field("", description="Which trained model or part of the data, where there are several.")
    request: str = Field(description="Fingerprint of what was asked, so that another request is asked anew.")
    model: str = Field(description="Model name in the response.")
    text: str
    route: str = ""
    cited: tuple[str, ...] = Field((), description="File names cited.")
    hits: tuple[Hit, ...] = ()
    ttft_ms: float
    total_ms: float
    at_once: int = Field(1, ge=1, description="Questions in flight while it was asked.")
    stage_ms: dict[str, float] = {}
    prompt_tokens: int = 0
    completion_tokens: int = 0
    finish_reason: str = ""

    @property
    def key(self) -> tuple[str, str, str]:
        return self.cell, self.variant, self.question_id

    @property
    def hit_documents(self) -> set[str]:
        return {hit.filename for hit in self.hits}


class Request(NamedTuple):
    """One question for one cell. `collection` is searched in place of the service's own.

    `base_url` and `documents`, a digest of what is searched, are not sent: another service or other documents
    give another answer to the same words.
    """

    cell: str
    model: str
    system_prompt: str
    question: Question
    max_tokens: int
    seed: int
    variant: str = ""
    collection: str | None = None
    base_url: str = ""
    documents: str = ""

    @property
    def messages(self) -> list[Any]:
        """As the openai client takes them, whose own types are a union of six."""
        system = [{"role": "system", "content": self.system_prompt}] if self.system_prompt else []
        return [*system, {"role": "user", "content": self.question.question}]

    @property
    def key(self) -> tuple[str, str, str]:
        return self.cell, self.variant, self.question.id

    @property
    def fingerprint(self) -> str:
        sent = [self.model, self.messages, self.max_tokens, self.seed, self.collection]
        asked = json.dumps([*sent, self.base_url, self.documents])
        return hashlib.sha256(asked.encode()).hexdigest()[:16]


class AnswerLog:
    """Answers in a JSONL file. Appending returns when the line is on the disk.

    Raises DataError for another file, ConfigError where nothing can be written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._answers = {answer.key: answer for answer in _read(path)}
            self._file = path.open("ab")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with writing(self._path):  # what a full disk did not take is tried again
            self._file.close()

    def append(self, answer: Answer) -> None:
        with writing(self._path):
            self._file.write(answer.model_dump_json().encode() + b"\n")
            self._file.flush()
            os.fsync(self._file.fileno())
        self._answers[answer.key] = answer

    def find(self, request: Request) -> Answer | None:
        """The answer to exactly this request, if it was given before."""
        answer = self._answers.get(request.key)
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
