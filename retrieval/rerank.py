"""Reordering hits by a model that reads question and passage together."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np

from cluster.references import resolve_model
from retrieval.chunks import indexed_text
from retrieval.padding import CPU_BOUNDS, padded_batches
from retrieval.search import SearchResult, Stages

# What the class of pairs that belong together is called. Classes of words are in alphabetical order, so that their
# place says nothing.
POSITIVE_LABELS = frozenset(
    {
        "duplicate",
        "entailment",
        "equivalent",
        "match",
        "paraphrase",
        "positive",
        "related",
        "relevant",
        "same",
        "similar",
        "true",
        "yes",
    }
)


class Reranker(Protocol):
    """Scores of passages for a question: [len(texts)], float32, higher is better."""

    name: str

    def score(self, question: str, texts: Sequence[str]) -> np.ndarray: ...


def rerank(question: str, result: SearchResult, reranker: Reranker, top_k: int) -> SearchResult:
    """The best `top_k` hits of a result by the reranker; its scores and its milliseconds are added."""
    stages = Stages()
    with stages.timed("rerank"):
        texts = [indexed_text(hit.context, hit.text) for hit in result.hits]
        scores = reranker.score(question, texts) if texts else np.zeros(0, dtype=np.float32)
        hits = [
            replace(hit, score=float(score), scores={**hit.scores, "rerank": float(score)})
            for hit, score in zip(result.hits, scores, strict=True)
        ]
        hits.sort(key=lambda hit: (-hit.score, hit.chunk_id))
    return SearchResult(tuple(hits[:top_k]), {**result.stages_ms, **stages.ms})


def positive_class(labels: Sequence[str]) -> int:
    """The class whose probability is a pair's score: the one with a name of POSITIVE_LABELS, else the last.

    >>> positive_class(["match", "no_match"]), positive_class(["0", "1"])
    (0, 1)
    """
    known = [index for index, label in enumerate(labels) if label.lower() in POSITIVE_LABELS]
    return known[0] if len(known) == 1 else len(labels) - 1


class CrossEncoder:
    """A sequence-pair classifier as reranker: a cross-encoder of the hub, or one tuned with Hamlet.

    The score is the probability of the `positive_class`, or of the only one. Safe for several threads: calls take
    turns. Raises what `resolve_model` raises.
    """

    def __init__(self, reference: str) -> None:
        # Imported late: torch takes seconds, and a search without a reranker needs none of it.
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        folder = resolve_model(reference)
        self.name = reference
        self._lock = threading.Lock()
        self._tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        self._model: Any = AutoModelForSequenceClassification.from_pretrained(
            folder, use_safetensors=True, trust_remote_code=False, local_files_only=True
        ).eval()
        limit = getattr(self._model.config, "max_position_embeddings", 512)
        labels = self._model.config.id2label
        self._positive = positive_class([labels[index] for index in range(len(labels))])
        self._max_tokens = min(int(limit), int(self._tokenizer.model_max_length))

    def score(self, question: str, texts: Sequence[str]) -> np.ndarray:
        """Probability that each text belongs to the question: [len(texts)], float32."""
        import torch

        # Whichever is longer is cut: a question that fills the limit alone would leave no passage to judge.
        encoded = self._tokenizer(
            [question] * len(texts), list(texts), truncation="longest_first", max_length=self._max_tokens
        )
        lengths = [len(ids) for ids in encoded["input_ids"]]
        scores = np.empty(len(texts), dtype=np.float32)
        with self._lock, torch.inference_mode():
            for batch in padded_batches(lengths, *CPU_BOUNDS):
                rows = {key: [values[index] for index in batch] for key, values in encoded.items()}
                logits = self._model(**self._tokenizer.pad(rows, return_tensors="pt")).logits.float()
                chosen = logits.sigmoid() if logits.shape[1] == 1 else logits.softmax(dim=1)
                scores[batch] = chosen[:, self._positive].numpy()
        return scores
