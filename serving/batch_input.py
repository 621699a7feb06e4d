"""The input of a batch: JSON lines of requests, all faults told by line before any is answered."""

from __future__ import annotations

import codecs
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Self

import orjson
from pydantic import BaseModel, ValidationError

from cluster.errors import InvalidInput
from serving.bodies import text_fault
from serving.body_limit import MAX_BODY_BYTES
from serving.errors import from_validation
from serving.schemas import ChatRequest, CompletionRequest
from serving.text_requests import ClassifyRequest, EmbeddingRequest, RerankRequest

# What a batch may ask for, and how each body is read.
BODIES: Mapping[str, type[BaseModel]] = {
    "/v1/chat/completions": ChatRequest,
    "/v1/completions": CompletionRequest,
    "/v1/embeddings": EmbeddingRequest,
    "/v1/classify": ClassifyRequest,
    "/v1/rerank": RerankRequest,
}
FIELDS = ("custom_id", "method", "url", "body")
MAX_CUSTOM_ID = 512
# No model has a longer name.
MAX_MODEL = 255
# A line is held in memory as a whole, as the body is that it stands for.
MAX_LINE_BYTES = MAX_BODY_BYTES
# More than anyone reads; the last one says how many there are.
MAX_FAULTS = 1000


@dataclass(frozen=True)
class Row:
    """One request. `line` counts from 1."""

    line: int
    custom_id: str
    body: dict[str, Any]

    @classmethod
    def of_line(cls, line: int, text: bytes) -> Self:
        value = orjson.loads(text)
        return cls(line, value["custom_id"], value["body"])


@dataclass
class Checked:
    """What an input holds."""

    num_rows: int = 0
    models: set[str] = field(default_factory=set)
    faults: list[dict[str, Any]] = field(default_factory=list)
    num_faults: int = 0

    @property
    def model(self) -> str | None:
        """The one that all rows name, where that can be a model's name at all; None where they differ."""
        model = next(iter(self.models)) if len(self.models) == 1 else ""
        is_name = 0 < len(model) <= MAX_MODEL and not text_fault(model, is_kept=True)
        return model if is_name else None

    def find(self, line: int | None, error: InvalidInput) -> None:
        """Add a fault in OpenAI's form."""
        self.num_faults += 1
        fault = {"code": error.code, "message": error.message, "param": error.param, "line": line}
        if self.num_faults <= MAX_FAULTS:
            self.faults.append(fault)
        else:
            self.faults[-1] = fault | {
                "message": f"there are {self.num_faults:,} faults; {MAX_FAULTS - 1} are listed",
                "param": None,
            }


def rows(stream: BinaryIO) -> Iterator[Row]:
    """The requests of an input that was found good."""
    return (Row.of_line(line, text) for line, text in _lines(stream))


def check(stream: BinaryIO, endpoint: str, max_rows: int) -> Checked:
    """Read an input to its end and tell every fault in it."""
    checked = Checked()
    seen: dict[str, int] = {}
    for line, text in _lines(stream):
        checked.num_rows += 1
        if checked.num_rows > max_rows:
            message = f"the file has more than {max_rows:,} requests; split it"
            checked.find(line, InvalidInput(message, "input_file_id", "too_many_requests"))
            return checked
        for error in _faults(text, endpoint, line, seen, checked.models):
            checked.find(line, error)
    if not checked.num_rows:
        checked.find(None, InvalidInput("the file has no request", "input_file_id", "empty_file"))
    return checked


def _lines(stream: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Lines that are not blank, by number. One that is too long comes cut."""
    number = 0
    while text := stream.readline(MAX_LINE_BYTES + 1):
        number += 1
        # The byte-order mark that some editors put before a file; within a text the same character is the caller's.
        line = (text.removeprefix(codecs.BOM_UTF8) if number == 1 else text).strip()
        while len(text) > MAX_LINE_BYTES and not text.endswith(b"\n"):
            text = stream.readline(MAX_LINE_BYTES + 1)
        if line:
            yield number, line


def _faults(
    text: bytes, endpoint: str, line: int, seen: dict[str, int], models: set[str]
) -> Iterator[InvalidInput]:
    if len(text) > MAX_LINE_BYTES:
        yield InvalidInput(f"the line is longer than {MAX_LINE_BYTES / 1024**2:g} MiB", None, "line_too_long")
        return
    try:
        value = orjson.loads(text.decode())
    except UnicodeDecodeError:
        yield InvalidInput("the line is not UTF-8; convert the file to UTF-8", None, "invalid_json_line")
        return
    except orjson.JSONDecodeError as exc:
        told = f"the line is no JSON: {exc.msg} at column {exc.colno}"
        yield InvalidInput(told, None, "invalid_json_line")
        return
    if not isinstance(value, dict):
        yield InvalidInput(f"the line must be an object with {', '.join(FIELDS)}", None, "invalid_request")
        return
    for name in FIELDS:
        if name not in value:
            yield InvalidInput(f"missing required parameter {name!r}", name, "missing_required_parameter")
    for name in sorted(value.keys() - set(FIELDS)):
        yield InvalidInput(f"unsupported parameter {name!r}: remove it", name, "unsupported_parameter")
    if "custom_id" in value:
        yield from _custom_id_faults(value["custom_id"], line, seen)
    if value.get("method", "POST") != "POST":
        yield InvalidInput(f"method must be POST; got {value['method']!r}", "method", "invalid_method")
    if value.get("url", endpoint) != endpoint:
        yield InvalidInput(
            f"url must be the batch's endpoint {endpoint}; got {value['url']!r}", "url", "invalid_url"
        )
    if "body" in value:
        yield from _body_faults(value["body"], endpoint, models)


def _custom_id_faults(custom_id: Any, line: int, seen: dict[str, int]) -> Iterator[InvalidInput]:
    if not isinstance(custom_id, str) or not 1 <= len(custom_id) <= MAX_CUSTOM_ID:
        yield InvalidInput(f"custom_id must be a text of 1 to {MAX_CUSTOM_ID} characters", "custom_id")
    elif fault := text_fault(custom_id, is_kept=True):
        yield InvalidInput(f"custom_id {fault}", "custom_id")
    elif (first := seen.setdefault(custom_id, line)) != line:
        yield InvalidInput(
            f"custom_id {custom_id!r} stands in line {first} too; give each row its own",
            "custom_id",
            "duplicate_custom_id",
        )


def _body_faults(body: Any, endpoint: str, models: set[str]) -> Iterator[InvalidInput]:
    try:
        asked: Any = BODIES[endpoint].model_validate(body)
    except InvalidInput as exc:
        yield InvalidInput(exc.message, _in_body(exc.param), exc.code)
    except ValidationError as exc:
        error = from_validation(exc.errors())
        yield InvalidInput(error.message, _in_body(error.param), error.code)
    else:
        models.add(asked.model)
        if getattr(asked, "stream", False):
            yield InvalidInput(
                "a batch has nobody to stream to; leave stream out", "body.stream", "unsupported_value"
            )


def _in_body(param: str | None) -> str:
    return f"body.{param}" if param and param != "body" else "body"
