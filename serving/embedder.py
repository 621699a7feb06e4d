"""Texts to vectors for requests: retrieval's embedder with the batches of many callers joined."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from cluster.errors import ContextLengthExceeded
from retrieval.vectorizer import EmbedderInfo, TextEmbedder
from serving.backends import Embedded
from serving.batching import Batcher, OnBatch, on_a_thread
from serving.config import EmbedderConfig

Vectors = NDArray[np.float32]


class Encoder(TextEmbedder, Protocol):
    """What is needed of `retrieval.embedding.Embedder`."""

    pass_tokens: int

    def count_tokens(self, texts: Sequence[str]) -> list[int]: ...


class Embedder:
    """Embeds the texts of many requests together; questions apart from documents, as models want it."""

    def __init__(
        self,
        config: EmbedderConfig,
        load: Callable[[str], Encoder] | None = None,
        on_batch: OnBatch | None = None,
    ) -> None:
        self._encoder = (load or _load)(config.model)
        # A question longer than the embedder reads is still a question; its beginning is searched for.
        queries = partial(self._encoder.embed_queries, truncate=True)
        documents = self._encoder.embed_documents
        bounds = config.max_batch_tokens, self._encoder.pass_tokens
        self._queries = Batcher(on_a_thread(_rows(queries)), *bounds, on_batch=on_batch)
        self._documents = Batcher(on_a_thread(_rows(documents)), *bounds, on_batch=on_batch)

    async def embed(self, texts: Sequence[str], is_query: bool = False) -> Embedded:
        """Vectors of `texts`. Raises ContextLengthExceeded naming a document that is too long."""
        lengths = await asyncio.to_thread(self._encoder.count_tokens, texts)
        if not is_query:
            self._require_lengths(lengths)
        batcher = self._queries if is_query else self._documents
        rows = await batcher.submit(texts, lengths)
        return Embedded(np.stack(rows), tuple(lengths), self._encoder.fingerprint)

    async def describe(self) -> EmbedderInfo:
        """What cuts documents into chunks that this embedder takes, and recognises its vectors."""
        return EmbedderInfo.of(self._encoder)

    def _require_lengths(self, lengths: Sequence[int]) -> None:
        # Before they are batched: in a batch with others an item has another index.
        limit = self._encoder.max_tokens
        for index, length in enumerate(lengths):
            if length > limit:
                raise ContextLengthExceeded(
                    f"input[{index}] has {length} tokens, the model reads {limit}; shorten or split it",
                    f"input[{index}]",
                )

    async def check_health(self) -> None:
        """Nothing to check: the model lives in this process."""


def _rows(encode: Callable[[Sequence[str]], Vectors]) -> Callable[[Sequence[str]], list[Vectors]]:
    return lambda texts: list(encode(texts))


def _load(model: str) -> Encoder:
    from retrieval.embedding import Embedder as SentenceEmbedder

    return SentenceEmbedder(model)
