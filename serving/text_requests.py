"""Requests about texts: embeddings, classes and relevance. What is wrong with one of them is named by its place."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field, field_validator

from cluster.errors import InvalidInput
from serving.bodies import Body

MAX_INPUTS = 2048

# `check_text` says more of what is wrong with one than these do.
Input = Annotated[str, Field(min_length=1)]
Inputs = Annotated[list[Input], Field(min_length=1, max_length=MAX_INPUTS)]


class EmbeddingRequest(Body):
    """`POST /v1/embeddings`"""

    model: str = Field(min_length=1, examples=["minilm"])
    input: Input | Inputs
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = Field(None, ge=1)
    user: str | None = Field(None, description="A label; has no effect.")

    @field_validator("input", mode="before")
    @classmethod
    def _texts(cls, value: object) -> object:
        for item, param in _items(value):
            check_text(item, param)
        return value

    @property
    def texts(self) -> list[str]:
        return [self.input] if isinstance(self.input, str) else self.input


class ClassifyRequest(Body):
    """`POST /v1/classify`: each input is a text, or a list of two for a pair classifier."""

    model: str = Field(min_length=1, description="A registered classifier.")
    input: Input | Annotated[list[Input | list[Input]], Field(min_length=1, max_length=MAX_INPUTS)]

    @field_validator("input", mode="before")
    @classmethod
    def _inputs(cls, value: object) -> object:
        for item, param in _items(value):
            if isinstance(item, list):
                if len(item) != 2:
                    raise InvalidInput(f"{param} has {len(item)} texts; a pair has two", param)
                for position, text in enumerate(item):
                    check_text(text, f"{param}[{position}]")
            else:
                check_text(item, param)
        return value

    @property
    def texts(self) -> list[tuple[str, ...]]:
        """Each input as one text or two."""
        items = [self.input] if isinstance(self.input, str) else self.input
        return [(item,) if isinstance(item, str) else tuple(item) for item in items]


class RerankRequest(Body):
    """`POST /v1/rerank`, in the form that Jina, Cohere and vLLM share."""

    model: str = Field(min_length=1, description="A registered pair classifier, or the embedder.")
    query: Input
    documents: Inputs = Field(description="Texts, or objects with a `text`.")
    top_n: int | None = Field(None, ge=1, description="Results at most; all by default.")
    return_documents: bool = Field(True, description="Repeat each text in its result.")
    user: str | None = Field(None, description="A label; has no effect.")

    @field_validator("query", mode="before")
    @classmethod
    def _question(cls, value: object) -> object:
        check_text(value, "query")
        return value

    @field_validator("documents", mode="before")
    @classmethod
    def _documents(cls, value: object) -> object:
        """Texts, or objects with a `text`. Raises InvalidInput naming the one at fault."""
        if not isinstance(value, list):
            raise InvalidInput("documents must be a list of texts", "documents")
        return [_document(item, param) for item, param in _items(value, "documents")]


def _document(item: object, param: str) -> str:
    if isinstance(item, dict):
        if set(item) != {"text"}:
            raise InvalidInput(f"{param} must be a text or an object with text alone", param)
        item = item["text"]
    check_text(item, param)
    return str(item)


def _items(value: object, field: str = "input") -> Iterator[tuple[object, str]]:
    """Each item of a field with its own name. Raises InvalidInput for none or too many."""
    if not isinstance(value, list):
        yield value, field
        return
    if not 1 <= len(value) <= MAX_INPUTS:
        raise InvalidInput(f"{field} has {len(value)} texts; send 1 to {MAX_INPUTS}", field)
    for index, item in enumerate(value):
        yield item, f"{field}[{index}]"


def check_text(item: object, param: str) -> None:
    """Raise InvalidInput unless `item` is a text with something in it."""
    if isinstance(item, int) or (isinstance(item, list) and item and isinstance(item[0], int)):
        raise InvalidInput(
            f"{param} holds token ids or numbers; ids of another tokenizer would be read as other words, "
            "so send text (LangChain: check_embedding_ctx_length=False)",
            param,
        )
    if not isinstance(item, str):
        raise InvalidInput(f"{param} must be a text, got {type(item).__name__}", param)
    if not item.strip():
        raise InvalidInput(f"{param} is empty; every text needs at least one character", param)
