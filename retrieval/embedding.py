"""Texts to vectors, on the fastest backend that stays within 1e-3 cosine of float32.

Owns loading, batching and the model's identity (`fingerprint`). The batching is where the time goes: texts
are sorted by length, so that a batch pads to nearly nothing, and batches are bounded in padded tokens, so
that memory is bounded too.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from tokenizers import Encoding, Tokenizer
from transformers.utils import logging as transformers_logging

from cluster.errors import ContextLengthExceeded, InvalidInput
from cluster.processor import has_bf16
from cluster.references import resolve_model

# Its bar for a load of half a second lands in the middle of other output.
transformers_logging.disable_progress_bar()

# Padded tokens of one forward pass. Above it nothing is gained on CPU (caches) and memory is spent on GPU.
BATCH_TOKENS_CPU = 8192
BATCH_TOKENS_GPU = 32768

# What changes the vectors of a model: weights, tokenizer, pooling, prompts.
FINGERPRINT_FILES = ("*.safetensors", "*.json", "*/config.json", "*/*.safetensors")


class Embedder:
    """One sentence-embedding model. Safe for several threads: calls take turns.

    Attributes: `name` (the reference it was loaded by), `fingerprint` (16 hex digits of its files),
    `dimension` (of a vector), `max_tokens` (of a text, special tokens included), `special_tokens` (how many
    the tokenizer adds to a text).

    Raises NotFound, HubUnreachable or InvalidInput when the model cannot be loaded.
    """

    def __init__(self, reference: str) -> None:
        folder = resolve_model(reference)
        self.name = reference
        self.fingerprint = fingerprint(folder)
        self._lock = threading.Lock()
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._model: Any = SentenceTransformer(
            str(folder),
            device=self._device,
            local_files_only=True,
            trust_remote_code=False,
            model_kwargs={"use_safetensors": True},
        )
        self._model.eval()
        # The Rust tokenizer itself: the wrapper around it costs as much again per text.
        self._tokenizer = Tokenizer.from_str(self._model.tokenizer.backend_tokenizer.to_str())
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._pad_id = int(self._model.tokenizer.pad_token_id or 0)
        self._prompts = {kind: _prompt(self._model.prompts, kind) for kind in ("query", "document")}
        self.dimension = int(self._model.get_embedding_dimension())
        self.max_tokens = int(self._model.max_seq_length or self._model.tokenizer.model_max_length)
        self.special_tokens = len(self._tokenizer.encode("").ids)
        self._batch_tokens = BATCH_TOKENS_GPU if self._device == "cuda" else BATCH_TOKENS_CPU
        self._dtype = torch.bfloat16 if has_bf16(self._device == "cuda") else None

    @property
    def tokenizer(self) -> Tokenizer:
        """The fast tokenizer, without truncation or padding; not to be changed."""
        return self._tokenizer

    def embed_queries(self, texts: Sequence[str], truncate: bool = False) -> np.ndarray:
        """[n, dimension] float32, L2-normalised: vectors of questions. Errors as `embed_documents`."""
        return self._embed(texts, "query", truncate)

    def embed_documents(self, texts: Sequence[str], truncate: bool = False) -> np.ndarray:
        """[n, dimension] float32, L2-normalised: vectors of passages, in the order given.

        Raises InvalidInput naming the index of an empty text, and ContextLengthExceeded naming the index of
        one above `max_tokens` unless `truncate` allows to embed only its beginning.
        """
        return self._embed(texts, "document", truncate)

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text, special tokens included: what usage is charged by."""
        return [len(encoding.ids) for encoding in self._tokenizer.encode_batch(list(texts))]

    def _embed(self, texts: Sequence[str], kind: str, truncate: bool) -> np.ndarray:
        for index, text in enumerate(texts):
            if not isinstance(text, str) or not text.strip():
                raise InvalidInput(
                    f"input[{index}] is empty; give a text with at least one character", f"input[{index}]"
                )
        encodings = self._tokenizer.encode_batch([self._prompts[kind] + text for text in texts])
        for index, encoding in enumerate(encodings):
            if len(encoding.ids) > self.max_tokens:
                if not truncate:
                    raise ContextLengthExceeded(
                        f"input[{index}] has {len(encoding.ids)} tokens and {self.name} takes "
                        f"{self.max_tokens}; shorten or split it",
                        f"input[{index}]",
                    )
                encoding.truncate(self.max_tokens)
        vectors = np.empty((len(texts), self.dimension), dtype=np.float32)
        with self._lock:
            for batch in token_bounded_batches([len(e.ids) for e in encodings], self._batch_tokens):
                vectors[batch] = self._forward([encodings[index] for index in batch])
        if not np.isfinite(vectors).all():
            bad = int(np.flatnonzero(~np.isfinite(vectors).all(axis=1))[0])
            raise InvalidInput(f"{self.name} yields no finite vector for input[{bad}]", f"input[{bad}]")
        return vectors

    @torch.inference_mode()
    def _forward(self, encodings: Sequence[Encoding]) -> np.ndarray:
        width = max(len(encoding.ids) for encoding in encodings)
        ids = np.full((len(encodings), width), self._pad_id, dtype=np.int64)
        mask = np.zeros((len(encodings), width), dtype=np.int64)
        for row, encoding in enumerate(encodings):
            ids[row, : len(encoding.ids)] = encoding.ids
            mask[row, : len(encoding.ids)] = 1
        features = {
            "input_ids": torch.from_numpy(ids).to(self._device),
            "attention_mask": torch.from_numpy(mask).to(self._device),
        }
        with torch.autocast(self._device, self._dtype) if self._dtype else nullcontext():
            vectors = self._model(features)["sentence_embedding"]
        return torch.nn.functional.normalize(vectors.float(), dim=1).cpu().numpy()


def token_bounded_batches(lengths: Sequence[int], max_tokens: int) -> Iterator[list[int]]:
    """Indices in batches of neighbouring lengths, longest first, each at most `max_tokens` when padded.

    A text longer than `max_tokens` is a batch of its own.

    >>> list(token_bounded_batches([3, 9, 4, 3], 10))
    [[1], [2, 0], [3]]
    """
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        # The first of a batch is its longest, and what the others are padded to.
        if batch and lengths[batch[0]] * (len(batch) + 1) > max_tokens:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def fingerprint(folder: Path) -> str:
    """16 hex digits that change with anything that changes a model's vectors."""
    digest = hashlib.sha256()
    for path in sorted({path for pattern in FINGERPRINT_FILES for path in folder.glob(pattern)}):
        digest.update(path.relative_to(folder).as_posix().encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]


def _prompt(prompts: dict[str, str], kind: str) -> str:
    """The prompt a model was trained to see before a query or a passage; most have none."""
    aliases = {"query": ("query",), "document": ("document", "passage", "corpus")}
    return next((prompts[name] for name in aliases[kind] if prompts.get(name)), "")
