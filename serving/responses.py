"""Bodies of the HTTP API, in OpenAI's shapes. Pure: no clock, no ids of their own."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from serving.citations import Citation
from serving.engine import Delta, FinishReason, TokenLogprob
from serving.generator import Answer, Completion
from serving.prompts import Passage
from serving.reranking import Relevance

# Of a message: the answer, or why there is none in the form that was asked for.
TextField = Literal["content", "refusal"]


class Envelope(NamedTuple):
    """What every object and chunk of one answer repeats."""

    id: str
    created: int  # seconds since the epoch
    model: str


def usage(num_prompt_tokens: int, num_completion_tokens: int) -> dict[str, int]:
    return {
        "prompt_tokens": num_prompt_tokens,
        "completion_tokens": num_completion_tokens,
        "total_tokens": num_prompt_tokens + num_completion_tokens,
    }


def completion_usage(completions: Iterable[Completion]) -> dict[str, int]:
    """Prompt tokens count once for each prompt, completion tokens for each answer."""
    done = list(completions)
    return usage(
        sum(completion.report.num_prompt_tokens for completion in done),
        sum(answer.num_tokens for completion in done for answer in completion.answers),
    )


def chat_completion(
    envelope: Envelope,
    completion: Completion,
    annotations: Sequence[list[dict[str, Any]]],
    with_logprobs: bool,
    extension: dict[str, Any],
    text_field: TextField = "content",
) -> dict[str, Any]:
    """A `chat.completion`; `annotations` are those of each answer, whose text stands in `text_field`."""
    return {
        "id": envelope.id,
        "object": "chat.completion",
        "created": envelope.created,
        "model": envelope.model,
        "choices": [
            {
                "index": index,
                "message": _message(answer, annotations[index], text_field),
                "logprobs": chat_logprobs(answer.logprobs) if with_logprobs else None,
                "finish_reason": answer.finish_reason,
            }
            for index, answer in enumerate(completion.answers)
        ],
        "usage": completion_usage([completion]),
        "hamlet": extension,
    }


def _message(answer: Answer, annotations: list[dict[str, Any]], text_field: TextField) -> dict[str, Any]:
    message = {"role": "assistant", "content": None, "refusal": None, "annotations": annotations}
    message[text_field] = answer.text if answer.text or not answer.calls else None
    calls = [_call(call.id, call.name, call.arguments) for call in answer.calls]
    return message | {"tool_calls": calls} if calls else message


def _call(call_id: str, name: str, arguments: str) -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def chat_chunk(
    envelope: Envelope,
    choices: list[dict[str, Any]],
    include_usage: bool,
    totals: dict[str, int] | None = None,
) -> dict[str, Any]:
    """A `chat.completion.chunk`. `usage` is there, if only as null, when the caller asked for it."""
    chunk: dict[str, Any] = {
        "id": envelope.id,
        "object": "chat.completion.chunk",
        "created": envelope.created,
        "model": envelope.model,
        "choices": choices,
    }
    return chunk | {"usage": totals} if include_usage else chunk


def chunk_choice(
    index: int,
    delta: dict[str, Any],
    finish_reason: FinishReason | None = None,
    logprobs: dict[str, Any] | None = None,
) -> dict[str, Any]:
    return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}


def delta_choice(delta: Delta, with_logprobs: bool, text_field: TextField = "content") -> dict[str, Any]:
    """The chunk choice of what an engine's step added, its finish reason left for the last chunk."""
    logprobs = chat_logprobs(delta.logprobs) if with_logprobs and delta.logprobs else None
    added: dict[str, Any] = {text_field: delta.text} if delta.text or not delta.calls else {}
    if delta.calls:
        added["tool_calls"] = [
            {"index": piece.number}
            | (
                _call(piece.id, piece.name, piece.arguments)
                if piece.id is not None and piece.name is not None
                else {"function": {"arguments": piece.arguments}}
            )
            for piece in delta.calls
        ]
    return chunk_choice(delta.index, added, None, logprobs)


def chat_logprobs(tokens: Sequence[TokenLogprob]) -> dict[str, Any]:
    return {
        "content": [
            _chat_token(token.token, token.logprob)
            | {"top_logprobs": [_chat_token(text, logprob) for text, logprob in token.top]}
            for token in tokens
        ],
        "refusal": None,
    }


def _chat_token(text: str, logprob: float) -> dict[str, Any]:
    return {"token": text, "logprob": logprob, "bytes": list(text.encode())}


def text_completion(
    envelope: Envelope, completions: Sequence[Completion], with_logprobs: bool
) -> dict[str, Any]:
    """A `text_completion`; the answers to the first prompt come first."""
    answers = [answer for completion in completions for answer in completion.answers]
    shown = [text_logprobs(answer.logprobs) if with_logprobs else None for answer in answers]
    return {
        "id": envelope.id,
        "object": "text_completion",
        "created": envelope.created,
        "model": envelope.model,
        "choices": [
            text_choice(index, answer.text, answer.finish_reason, logprobs)
            for index, (answer, logprobs) in enumerate(zip(answers, shown, strict=True))
        ],
        "usage": completion_usage(completions),
    }


def text_chunk(
    envelope: Envelope,
    choices: list[dict[str, Any]],
    include_usage: bool,
    totals: dict[str, int] | None = None,
) -> dict[str, Any]:
    return chat_chunk(envelope, choices, include_usage, totals) | {"object": "text_completion"}


def text_choice(
    index: int, text: str, finish_reason: FinishReason | None = None, logprobs: dict[str, Any] | None = None
) -> dict[str, Any]:
    return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish_reason}


def text_logprobs(tokens: Sequence[TokenLogprob], at: int = 0) -> dict[str, Any]:
    """Tokens of one answer, the first of which begins `at` so many characters."""
    offsets = []
    for token in tokens:
        offsets.append(at)
        at += len(token.token)
    return {
        "tokens": [token.token for token in tokens],
        "token_logprobs": [token.logprob for token in tokens],
        "top_logprobs": [dict(token.top) for token in tokens],
        "text_offset": offsets,
    }


def annotation(citation: Citation, answer: str, passages: Sequence[Passage]) -> dict[str, Any]:
    """A citation as a `file_citation`; `index` is the passage's number in the prompt, from 1."""
    passage = passages[citation.number - 1]
    return {
        "type": "file_citation",
        "index": citation.number,
        "start_index": citation.start,
        "end_index": citation.end,
        "text": answer[citation.start : citation.end],
        "file_citation": {
            "file_id": passage.document_id,
            "filename": passage.filename,
            "chunk_id": passage.chunk_id,
            "page": passage.page,
            "quote": passage.text,
        },
    }


def embeddings(model: str, vectors: NDArray[np.float32], num_tokens: int, as_base64: bool) -> dict[str, Any]:
    """An embedding list. `vectors`: [num_texts, dimension], float32; base64 is of its little-endian bytes."""
    little = vectors.astype("<f4", copy=False)
    values: list[Any] = (
        [base64.b64encode(row.tobytes()).decode("ascii") for row in little] if as_base64 else little.tolist()
    )
    return {
        "object": "list",
        "data": [
            {"object": "embedding", "index": index, "embedding": value} for index, value in enumerate(values)
        ],
        "model": model,
        "usage": {"prompt_tokens": num_tokens, "total_tokens": num_tokens},
    }


def ranking(
    envelope: Envelope, relevance: Relevance, texts: Sequence[str], top_n: int | None, with_texts: bool
) -> dict[str, Any]:
    """A rerank response; `relevance` are the scores of `texts`, in their order."""
    results = [
        {"index": index, "relevance_score": relevance.scores[index]}
        | ({"document": {"text": texts[index]}} if with_texts else {})
        for index in relevance.ranking(top_n)
    ]
    totals = {"prompt_tokens": relevance.num_tokens, "total_tokens": relevance.num_tokens}
    return {"id": envelope.id, "model": envelope.model, "results": results, "usage": totals}


def model_object(name: str, created: int, owner: str, **extra: Any) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": created, "owned_by": owner, **extra}
