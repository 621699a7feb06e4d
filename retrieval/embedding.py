"""Texts to vectors, within 1e-3 cosine of float32.

Owns checks, prompts, batching and the model's identity (`fingerprint`). The batching is where the time goes: texts of
one length go together, so that a batch pads to nearly nothing, and batches are bounded in padded tokens, so that
memory is bounded too.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tokenizers import Encoding, Tokenizer

from cluster.errors import ContextLengthExceeded, InvalidInput
from cluster.references import resolve_model
from retrieval.embedding_backend import load_sentence_model
from retrieval.padding import padded_batches
from retrieval.sentence_model import padded_inputs

# What changes the vectors of a model: weights, tokenizer, pooling, prompts.
FINGERPRINT_FILES = ("*.safetensors", "*.json", "*/config.json", "*/*.safetensors")


class Embedder:
    """One sentence-embedding model. Safe for several threads: calls take turns.

    Attributes: `name` (the reference it was loaded by), `fingerprint` (16 hex digits of its files),
    `dimension` (of a vector), `max_tokens` (of a text, special tokens and prompt included), `special_tokens` (how many
    these are for a passage), `pass_tokens` (what a pass costs, see `padding.Bounds`).

    Raises NotFound, HubUnreachable or InvalidInput when the model cannot be loaded.
    """

    def __init__(self, reference: str) -> None:
        folder = resolve_model(reference)
        self.name = reference
        self.fingerprint = fingerprint(folder)
        self._lock = threading.Lock()
        self._model = load_sentence_model(folder, self.fingerprint)
        info = self._model.info
        self._tokenizer = Tokenizer.from_str(info.tokenizer_json)
        self._prompts = {"query": info.query_prompt, "document": info.document_prompt}
        self.dimension, self.max_tokens = info.dimension, info.max_tokens
        self.special_tokens = len(self._tokenizer.encode(info.document_prompt).ids)
        self.pass_tokens = self._model.bounds.pass_tokens

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
        """Tokens of each text as a passage, special tokens and prompt included: what usage is charged by."""
        return [len(encoding.ids) for encoding in self._encoded(texts, "document")]

    def _embed(self, texts: Sequence[str], kind: str, truncate: bool) -> np.ndarray:
        for index, text in enumerate(texts):
            if not isinstance(text, str) or not text.strip():
                raise InvalidInput(
                    f"input[{index}] is empty; give a text with at least one character", f"input[{index}]"
                )
        encodings = self._encoded(texts, kind)
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
        lengths = [len(encoding.ids) for encoding in encodings]
        with self._lock:
            for batch in padded_batches(lengths, *self._model.bounds):
                inputs = padded_inputs([encodings[index] for index in batch], self._model.info.pad_token_id)
                vectors[batch] = self._model.vectors(*inputs)
        if not np.isfinite(vectors).all():
            bad = int(np.flatnonzero(~np.isfinite(vectors).all(axis=1))[0])
            raise InvalidInput(f"{self.name} yields no finite vector for input[{bad}]", f"input[{bad}]")
        return vectors

    def _encoded(self, texts: Sequence[str], kind: str) -> list[Encoding]:
        return self._tokenizer.encode_batch([self._prompts[kind] + text for text in texts])


def fingerprint(folder: Path) -> str:
    """16 hex digits that change with anything that changes a model's vectors."""
    digest = hashlib.sha256()
    for path in sorted({path for pattern in FINGERPRINT_FILES for path in folder.glob(pattern)}):
        digest.update(path.relative_to(folder).as_posix().encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]
