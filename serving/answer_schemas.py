"""Shapes of what answers hold: chats, completions, embeddings, models, health and errors. For `openapi` alone.

Bodies themselves are made in `responses`.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field

from cluster.cards import ModelKind
from serving.cluster_view import ClusterState
from serving.engine import FinishReason
from serving.policy import RouteKind

PAGE = Field(description="Page of the passage, from 1; null where the format has none.")
Created = Field(description="Unix seconds.")


def absent_or(description: str) -> Any:
    """A field that may be absent."""
    return Field(default_factory=lambda: None, description=description)


class ErrorDetail(BaseModel):
    message: str = Field(description="The cause and the remedy, in sentences.")
    type: str = Field(examples=["invalid_request_error"])
    param: str | None = Field(description="The field at fault, such as `messages[1].role`.")
    code: str | None = Field(examples=["model_not_found"])
    hamlet: dict[str, Any] = absent_or("What does not fit a sentence, such as every fault of a file.")


class ErrorAnswer(BaseModel):
    """OpenAI's error object."""

    error: ErrorDetail


class Usage(BaseModel):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class InputUsage(BaseModel):
    prompt_tokens: int
    total_tokens: int


class CitedFile(BaseModel):
    file_id: str
    filename: str
    chunk_id: str
    page: int | None = PAGE
    quote: str = Field(description="The passage that was in the prompt.")


class FileCitation(BaseModel):
    type: Literal["file_citation"]
    index: int = Field(description="Number of the passage in the prompt, from 1.")
    start_index: int
    end_index: int
    text: str = Field(description="The marker in the answer.")
    file_citation: CitedFile


class ChatTopLogprob(BaseModel):
    token: str
    logprob: float
    bytes: list[int] | None = Field(
        description="UTF-8 of what the token adds to the text; the last token of a character has all of its bytes."
    )


class ChatTokenLogprob(ChatTopLogprob):
    top_logprobs: list[ChatTopLogprob]


class ChatLogprobs(BaseModel):
    content: list[ChatTokenLogprob] | None
    refusal: None


class AnsweredFunction(BaseModel):
    name: str
    arguments: str = Field(description="JSON text, as the model wrote it.")


class AnsweredCall(BaseModel):
    id: str
    type: Literal["function"]
    function: AnsweredFunction


class AnswerMessage(BaseModel):
    role: Literal["assistant"]
    content: str | None = Field(description="Null where the answer is function calls or a refusal alone.")
    refusal: str | None = Field(description="Why there is no answer, where JSON was asked for.")
    annotations: list[FileCitation]
    tool_calls: list[AnsweredCall] = absent_or("Function calls, where the answer makes some.")


class ChatChoice(BaseModel):
    index: int
    message: AnswerMessage
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason


class UsedHit(BaseModel):
    index: int
    file_id: str
    filename: str
    chunk_id: str
    page: int | None = PAGE
    score: float
    text: str


class Dropped(BaseModel):
    """What found no room in the prompt."""

    hits: int
    turns: int


class AnswerExtension(BaseModel):
    """How an answer came about."""

    route: RouteKind
    reason: str
    degraded: bool = Field(description="A better route was down.")
    stages: list[str]
    stage_ms: dict[str, float] = Field(description="Milliseconds of each stage.")
    hits: list[UsedHit] = Field(description="Passages in the prompt, best first.")
    dropped: Dropped
    verdict: dict[str, float] = absent_or("Probabilities, where a classifier answered.")


class ChatCompletion(BaseModel):
    id: str
    object: Literal["chat.completion"]
    created: int = Created
    model: str
    choices: list[ChatChoice]
    usage: Usage
    hamlet: AnswerExtension


class TextLogprobs(BaseModel):
    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]


class TextChoice(BaseModel):
    index: int
    text: str
    logprobs: TextLogprobs | None
    finish_reason: FinishReason


class TextCompletion(BaseModel):
    id: str
    object: Literal["text_completion"]
    created: int = Created
    model: str
    choices: list[TextChoice]
    usage: Usage


class Embedding(BaseModel):
    object: Literal["embedding"]
    index: int
    embedding: list[float] | str = Field(
        description="Numbers, or base64 of their little-endian float32 bytes."
    )


class EmbeddingList(BaseModel):
    object: Literal["list"]
    data: list[Embedding]
    model: str
    usage: InputUsage


class Classification(BaseModel):
    object: Literal["classification"]
    index: int
    label: str
    score: float
    scores: dict[str, float] = Field(description="Every label's probability, best first.")
    truncated: bool = Field(description="The input was longer than the model reads.")


class ClassificationList(BaseModel):
    object: Literal["list"]
    data: list[Classification]
    model: str
    usage: Usage


class RankedText(BaseModel):
    text: str


class Ranked(BaseModel):
    index: int = Field(description="Place in the request's `documents`, from 0.")
    relevance_score: float
    document: RankedText = absent_or("Absent with return_documents: false.")


class Ranking(BaseModel):
    """Documents, the most relevant first."""

    id: str
    model: str
    results: list[Ranked]
    usage: InputUsage


class Model(BaseModel):
    id: str
    object: Literal["model"]
    created: int = Created
    owned_by: str
    kind: ModelKind = absent_or("Of a model; aliases and `auto` have none.")
    base_model: str = absent_or("Of a tuned model: what it was tuned from.")
    alias_of: str = absent_or("Of an alias: the id that it means now.")


class ModelList(BaseModel):
    object: Literal["list"]
    data: list[Model]


class DeletedModel(BaseModel):
    id: str
    object: Literal["model"]
    deleted: Literal[True]


class Alias(BaseModel):
    id: str
    object: Literal["model.alias"]
    model: str = Field(description="Id of the model that the alias means.")
    previous_model: str = absent_or("What it meant before this call, if anything.")


class AliasList(BaseModel):
    object: Literal["list"]
    data: list[Alias]


class DeletedAlias(BaseModel):
    id: str
    object: Literal["model.alias"]
    deleted: Literal[True]


class Health(BaseModel):
    status: Literal["ok"]


class Readiness(BaseModel):
    status: Literal["ready", "not ready"]
    parts: dict[str, str] = Field(description="Each part's state: `ready`, or what is wrong with it.")


class Cluster(ClusterState):
    object: Literal["cluster"]
