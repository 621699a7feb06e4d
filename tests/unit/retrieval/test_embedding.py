from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cluster.errors import ConfigError, ContextLengthExceeded
from retrieval.config import retrieval_config
from retrieval.documents import Content, Document, Section
from retrieval.embedding import Embedder
from retrieval.ingest import chunker_for
from retrieval.padding import CPU_BOUNDS
from retrieval.sentence_model import ModelInfo
from retrieval.vectorizer import HashEmbedder

PROMPT = "search_document: "  # 4 tokens
TEXT = " ".join(f"w{number}" for number in range(500))


class PromptedModel:
    """Takes 64 tokens, those of its prompts among them; every vector is the same."""

    info = ModelInfo(2, 64, 0, "query: ", PROMPT, HashEmbedder().tokenizer.to_str())
    bounds = CPU_BOUNDS

    def vectors(self, input_ids: np.ndarray, attention_mask: np.ndarray) -> np.ndarray:
        assert input_ids.shape[1] <= self.info.max_tokens
        return np.tile(np.asarray([0.6, 0.8], dtype=np.float32), (len(input_ids), 1))


@pytest.fixture
def embedder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Embedder:
    monkeypatch.setattr("retrieval.embedding.resolve_model", lambda reference: tmp_path)
    monkeypatch.setattr("retrieval.embedding.load_sentence_model", lambda *_: PromptedModel())
    return Embedder("prompted")


def test_the_longest_chunks_that_are_cut_fit_the_embedder_with_its_prompt(embedder: Embedder) -> None:
    document = Document("d", "Title", "d.txt", Content(TEXT, (Section(0, len(TEXT)),)))
    config = retrieval_config(collection="c", chunk_tokens=50, chunk_overlap_tokens=0, context_tokens=8)
    chunks = chunker_for(embedder, config).cut(document)
    assert len(embedder.embed_documents([chunk.indexed_text for chunk in chunks])) == 10
    with pytest.raises(ConfigError, match=r"chunk_tokens \(51\) .* 6 special ones = 65 .*64 tokens"):
        chunker_for(embedder, config.model_copy(update={"chunk_tokens": 51}))


def test_a_text_is_counted_with_the_prompt_that_it_is_embedded_with(embedder: Embedder) -> None:
    texts = [" ".join(["word"] * length) for length in (60, 61)]
    assert embedder.count_tokens(texts) == [64, 65]
    embedder.embed_documents(texts[:1])
    with pytest.raises(ContextLengthExceeded, match=r"input\[1\] has 65 tokens and prompted takes 64"):
        embedder.embed_documents(texts)
