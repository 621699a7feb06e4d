from __future__ import annotations

import asyncio
from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from cluster.errors import ContextLengthExceeded
from serving.backends import Embedded
from serving.config import EmbedderConfig
from serving.embedder import Embedder


class FakeEncoder:
    """One token a word, at most 5; a vector holds the number of words, queries negative."""

    max_tokens = 5
    pass_tokens = 8
    fingerprint = "fake-1"

    def __init__(self) -> None:
        self.batches: list[list[str]] = []

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return [len(text.split()) for text in texts]

    def embed_queries(self, texts: Sequence[str], truncate: bool = False) -> NDArray[np.float32]:
        assert truncate
        return -self.embed_documents(texts)

    def embed_documents(self, texts: Sequence[str]) -> NDArray[np.float32]:
        self.batches.append(list(texts))
        return np.array([[len(text.split())] for text in texts], dtype=np.float32)


def embed(texts: list[str], is_query: bool = False, encoder: FakeEncoder | None = None) -> Embedded:
    embedder = Embedder(EmbedderConfig(), lambda _model: encoder or FakeEncoder())
    return asyncio.run(embedder.embed(texts, is_query))


def test_vectors_come_in_the_order_of_the_texts_with_their_tokens() -> None:
    embedded = embed(["a b c", "a", "a b"])
    assert embedded.vectors.tolist() == [[3.0], [1.0], [2.0]]
    assert embedded.num_tokens == 6


def test_a_document_that_is_too_long_is_named_by_its_place_in_the_request() -> None:
    encoder = FakeEncoder()
    with pytest.raises(ContextLengthExceeded, match="6 tokens, the model reads 5") as refused:
        embed(["a", "a b c d e f"], encoder=encoder)
    assert refused.value.param == "input[1]"
    assert encoder.batches == []


def test_a_question_that_is_too_long_is_searched_by_its_beginning() -> None:
    assert embed(["a b c d e f"], is_query=True).vectors.tolist() == [[-6.0]]
