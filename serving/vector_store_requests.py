"""Requests of `/v1/vector_stores` in OpenAI's shapes. A field that is not listed is refused with its name."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from fastapi import Query
from pydantic import AfterValidator, Field, StrictBool, field_validator, model_validator

from cluster.errors import InvalidInput, NotFound
from cluster.paging import Page, cut
from cluster.vector_store_records import StoreFile
from retrieval.filters import field_type
from retrieval.search import Mode
from serving.bodies import Body, KeptBody, Part
from serving.metadata import Metadata, few_and_short
from serving.text_requests import check_text

MAX_QUERIES = 16


def _attributes(value: dict[str, Any]) -> dict[str, Any]:
    for key, item in few_and_short(value).items():
        try:
            field_type(item)
        except TypeError as exc:
            raise ValueError(f"{key}: {exc}") from exc
    return value


FileId = Annotated[str, Field(min_length=1, examples=["file-0123456789abcdef01234567"])]
Attributes = Annotated[dict[str, StrictBool | int | float | str], AfterValidator(_attributes)]


class ExpiresAfter(Part):
    anchor: Literal["last_active_at"]
    days: int = Field(ge=1, le=365)


class StaticChunking(Part):
    max_chunk_size_tokens: int = Field(ge=100, le=4096)
    chunk_overlap_tokens: int = Field(ge=0)


class ChunkingStrategy(Part):
    """How files are cut; `auto` as suits the embedder."""

    type: Literal["auto", "static"]
    static: StaticChunking | None = None

    @model_validator(mode="after")
    def _static_has_numbers(self) -> ChunkingStrategy:
        if (self.type == "static") != (self.static is not None):
            raise ValueError("static is required by type static and allowed with it alone")
        return self

    @property
    def numbers(self) -> tuple[int, int] | None:
        """Tokens of a chunk and of an overlap, where they are given."""
        static = self.static
        return None if static is None else (static.max_chunk_size_tokens, static.chunk_overlap_tokens)


@dataclass(frozen=True)
class PageQuery:
    """The parameters of a listing, as OpenAI names them."""

    limit: Annotated[int, Query(ge=1, le=100)] = 20
    order: Literal["asc", "desc"] = "desc"
    after: str | None = None
    before: str | None = None

    @property
    def goes_back(self) -> bool:
        """Whether what stands in front of the cursor is asked for."""
        return self.after is None and self.before is not None

    def arguments(self) -> dict[str, Any]:
        """As `VectorStores` takes them."""
        ascending = self.order == "asc"
        return {"limit": self.limit, "after": self.after, "before": self.before, "ascending": ascending}

    def page_of(self, files: Sequence[StoreFile]) -> Page[StoreFile]:
        """A page of files that are all at hand, and all of one age. Raises NotFound for an unknown cursor."""
        ordered = sorted(files, key=lambda file: file.id, reverse=self.order == "desc")
        name, cursor = ("after", self.after) if self.after is not None else ("before", self.before)
        if cursor is None:
            return cut(ordered, self.limit)
        place = next((index for index, file in enumerate(ordered) if file.id == cursor), None)
        if place is None:
            raise NotFound(f"{name}: there is no {cursor!r} here; give an id of a page before", name)
        if name == "after":
            return cut(ordered[place + 1 :], self.limit)
        return Page(ordered[max(0, place - self.limit) : place], place > self.limit)


class CreateStore(KeptBody):
    """`POST /v1/vector_stores`"""

    name: Annotated[str, Field(max_length=256)] | None = None
    description: str | None = None
    file_ids: list[FileId] = Field(default_factory=list, max_length=500)
    expires_after: ExpiresAfter | None = None
    chunking_strategy: ChunkingStrategy | None = None
    metadata: Metadata | None = None


class ModifyStore(KeptBody):
    """`POST /v1/vector_stores/{id}`: what is not sent stays."""

    name: Annotated[str, Field(max_length=256)] | None = None
    expires_after: ExpiresAfter | None = None
    metadata: Metadata | None = None

    @property
    def changes(self) -> dict[str, Any]:
        """The columns that change."""
        changes: dict[str, Any] = {}
        if "name" in self.model_fields_set:
            changes["name"] = self.name or ""
        if "expires_after" in self.model_fields_set:
            changes["expires_after_days"] = self.expires_after.days if self.expires_after else None
        if "metadata" in self.model_fields_set:
            changes["labels"] = dict(self.metadata or {})
        return changes


class AttachFile(KeptBody):
    """`POST /v1/vector_stores/{id}/files`, and one of several in a batch"""

    file_id: FileId
    attributes: Attributes | None = None
    chunking_strategy: ChunkingStrategy | None = None


class AttachBatch(KeptBody):
    """`POST /v1/vector_stores/{id}/file_batches`: ids that share their options, or files with their own."""

    file_ids: list[FileId] | None = Field(None, min_length=1, max_length=2000)
    files: list[AttachFile] | None = Field(None, min_length=1, max_length=2000)
    attributes: Attributes | None = None
    chunking_strategy: ChunkingStrategy | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> AttachBatch:
        if (self.file_ids is None) == (self.files is None):
            raise ValueError("send file_ids or files, one of them")
        if self.files is not None and (self.attributes or self.chunking_strategy):
            raise ValueError("attributes and chunking_strategy beside files stand in each of them")
        return self

    @property
    def requests(self) -> list[AttachFile]:
        if self.files is not None:
            return self.files
        return [
            AttachFile(file_id=file_id, attributes=self.attributes, chunking_strategy=self.chunking_strategy)
            for file_id in self.file_ids or ()
        ]


class UpdateAttributes(KeptBody):
    """`POST /v1/vector_stores/{id}/files/{file_id}`"""

    attributes: Attributes | None


class RankingOptions(Part):
    """`none` orders by similarity of meaning alone; otherwise words count too. The threshold is of similarity."""

    ranker: Literal["none", "auto", "default-2024-11-15"] = "auto"
    score_threshold: float = Field(0.0, ge=0, le=1)

    @property
    def mode(self) -> Mode:
        return Mode.DENSE if self.ranker == "none" else Mode.HYBRID


class SearchExtension(Part):
    """The extension field `hamlet` of a search."""

    explain: bool = Field(False, description="Say of each chunk where it stands and what each stage scored.")
    rerank: str | None = Field(
        None, min_length=1, description="Pair classifier that puts the chunks in order."
    )


class SearchStore(Body):
    """`POST /v1/vector_stores/{id}/search`"""

    query: str | list[str]
    rewrite_query: bool = False
    max_num_results: int = Field(10, ge=1, le=50)
    filters: dict[str, Any] | None = None
    ranking_options: RankingOptions = RankingOptions()
    hamlet: SearchExtension = SearchExtension()

    @field_validator("query", mode="before")
    @classmethod
    def _texts(cls, value: object) -> object:
        items = value if isinstance(value, list) else [value]
        if not 1 <= len(items) <= MAX_QUERIES:
            raise InvalidInput(f"query has {len(items)} texts; send 1 to {MAX_QUERIES}", "query")
        for index, item in enumerate(items):
            check_text(item, f"query[{index}]" if isinstance(value, list) else "query")
        return value

    @property
    def queries(self) -> tuple[str, ...]:
        """What is searched for."""
        texts = [self.query] if isinstance(self.query, str) else self.query
        return tuple(rewritten(text) for text in texts) if self.rewrite_query else tuple(texts)


_POLITE_OPENING = re.compile(
    r"^\s*(?:(?:hi|hello|hey|please|dear\s+\w+)\b[\s,!.:]*)*"
    r"(?:(?:can|could|would|will)\s+you\s+(?:please\s+)?(?:tell|show|explain|give|help)\s+(?:to\s+)?(?:me|us)\s+"
    r"|(?:i|we)\s+(?:would|'d)\s+like\s+to\s+know\s+|(?:i|we)\s+(?:want|need)\s+to\s+know\s+"
    r"|(?:please\s+)?(?:tell|show)\s+(?:me|us)\s+)?(?:about\s+)?",
    re.IGNORECASE,
)
# What stands before it is stripped afterwards: a repeat in front would read a long gap again from each of its places.
_THANKS = re.compile(r"\b(?:thanks|thank\s+you)(?:\s+(?:so\s+much|very\s+much|in\s+advance))?[\s.!]*$", re.I)


def rewritten(query: str) -> str:
    """A question without the courtesy around it, whose words would be searched for too.

    >>> rewritten("Hi, could you please tell me what the main office's hours are? Thanks!")
    "what the main office's hours are"
    """
    bare = _THANKS.sub("", _POLITE_OPENING.sub("", query)).strip().rstrip("?!., \t\r\n")
    return bare or query
