"""What can be configured in retrieval: how documents are cut, and what a collection is made for."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Any, Self

from pydantic import Field, field_validator, model_validator

from cluster.yaml_config import Section, validated

DEFAULT_EMBEDDER = "builtin:minilm"
DEFAULT_CHUNK_TOKENS, DEFAULT_OVERLAP_TOKENS = 192, 32


class Distance(StrEnum):
    """How near two vectors are. Scores are similarities for all of them: more is nearer."""

    COSINE = "cosine"
    DOT = "dot"
    EUCLID = "euclid"


class RetrievalConfig(Section):
    """How one collection is filled.

    >>> RetrievalConfig(collection="handbook").chunk_tokens
    192
    """

    collection: str = Field(description="Name of the collection: a-z, 0-9, _ and -.")
    embedder: str = Field(
        DEFAULT_EMBEDDER,
        min_length=1,
        description="Embedding model: hub id, folder, registered name or builtin:NAME.",
    )
    distance: Distance = Field(Distance.COSINE, description="How near two vectors are.")
    chunk_tokens: int = Field(
        DEFAULT_CHUNK_TOKENS, ge=1, description="Longest text of a chunk, in the embedder's tokens."
    )
    chunk_overlap_tokens: int = Field(
        DEFAULT_OVERLAP_TOKENS,
        ge=0,
        description="Tokens that neighbouring chunks of one section may share; below chunk_tokens.",
    )
    context_tokens: int = Field(
        48,
        ge=0,
        description="Tokens of title, headings and table header that are embedded in front of each chunk.",
    )
    deduplicate: bool = Field(
        True, description="Skip a document whose content is already in the collection under another id."
    )

    @field_validator("collection")
    @classmethod
    def _is_name(cls, name: str) -> str:
        if not re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,62}", name):
            raise ValueError(
                f"collection: {name!r} must be 1 to 63 of a-z, 0-9, _ and -, the first a letter or digit"
            )
        return name

    @model_validator(mode="after")
    def _overlap_leaves_room(self) -> Self:
        # A splitter that is asked to overlap by its whole size never advances.
        if self.chunk_overlap_tokens >= self.chunk_tokens:
            raise ValueError(
                f"chunk_overlap_tokens ({self.chunk_overlap_tokens}) must be below "
                f"chunk_tokens ({self.chunk_tokens})"
            )
        return self


def retrieval_config(**values: Any) -> RetrievalConfig:
    """A config from a caller's values. Raises ConfigError naming the fields and what is wrong with them."""
    return validated(RetrievalConfig, values)
