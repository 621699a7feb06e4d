"""What the HTTP front calls: the parts as plain asynchronous objects.

In a cluster they are handles of Serve deployments (`handles`); in tests the parts themselves. Their
arguments and results cross process boundaries, so they are frozen and small.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from cluster.cards import ModelCard
from retrieval.vectorizer import EmbedderInfo
from serving.catalogue import ServedModel
from serving.engine import Delta
from serving.generator import Completion, GenerationJob, PromptReport, Spend
from serving.prompts import Passage


@dataclass(frozen=True, slots=True)
class Classified:
    """The verdict on one input: probabilities by label, best first."""

    scores: tuple[tuple[str, float], ...]
    num_tokens: int
    truncated: bool


@dataclass(frozen=True, slots=True)
class Embedded:
    """`vectors`: [num_texts, dimension], float32, of unit length; `token_counts`: of each text.

    `fingerprint` is the embedder's: a collection compares these vectors with those of the same one alone.
    """

    vectors: NDArray[np.float32]
    token_counts: tuple[int, ...]
    fingerprint: str

    @property
    def num_tokens(self) -> int:
        return sum(self.token_counts)


@dataclass(frozen=True, slots=True)
class SearchJob:
    """What to look for. `tenant` is what the server knows of the caller, never a field of the request."""

    collection: str
    text: str
    vector: NDArray[np.float32]  # [dimension]
    fingerprint: str  # of the embedder that made the vector
    top_k: int
    tenant: str
    filter: Mapping[str, Any] | None = None  # in OpenAI's form


class GeneratorBackend(Protocol):
    async def complete(self, job: GenerationJob, spend: Spend) -> Completion: ...

    def stream(self, job: GenerationJob) -> AsyncGenerator[PromptReport | list[Delta]]: ...

    async def check_health(self) -> None: ...


class ClassifierBackend(Protocol):
    async def classify(self, card: ModelCard, inputs: Sequence[tuple[str, ...]]) -> list[Classified]: ...

    async def check_health(self) -> None: ...


class EmbedderBackend(Protocol):
    async def embed(self, texts: Sequence[str], is_query: bool = False) -> Embedded: ...

    async def describe(self) -> EmbedderInfo: ...

    async def check_health(self) -> None: ...


class RetrieverBackend(Protocol):
    async def search(self, job: SearchJob) -> list[Passage]: ...

    async def check_health(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Backends:
    """All parts of one application."""

    generators: Mapping[str, GeneratorBackend]  # by the names of their deployments
    classifier: ClassifierBackend
    embedder: EmbedderBackend
    retriever: RetrieverBackend

    def generator_of(self, model: ServedModel) -> GeneratorBackend:
        """The one that hosts a model of kind generator."""
        assert model.deployment is not None
        return self.generators[model.deployment]
