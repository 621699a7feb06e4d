"""What ingestion needs of an embedding model, and a stand-in that needs no model.

`embedding.Embedder` is the real one. `HashEmbedder` knows words only: texts are near when they share them. It
loads in no time, so that what is around an embedder can be tried and tested without torch.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from cluster.errors import ContextLengthExceeded, HamletError, InvalidInput


class TextEmbedder(Protocol):
    """Texts to vectors. See `embedding.Embedder` for what the attributes and errors mean."""

    name: str
    fingerprint: str
    dimension: int
    max_tokens: int
    special_tokens: int

    @property
    def tokenizer(self) -> Tokenizer: ...

    def embed_queries(self, texts: Sequence[str], truncate: bool = False) -> np.ndarray: ...

    def embed_documents(self, texts: Sequence[str], truncate: bool = False) -> np.ndarray: ...


@dataclass(frozen=True, slots=True)
class EmbedderInfo:
    """An embedder's identity, and what chunks are cut by, for a process that does not hold its model.

    `tokenizer_json` is the whole tokenizer, as `tokenizers.Tokenizer.to_str` writes it.
    """

    name: str
    fingerprint: str
    dimension: int
    max_tokens: int
    special_tokens: int
    tokenizer_json: str

    @classmethod
    def of(cls, embedder: TextEmbedder) -> EmbedderInfo:
        return cls(
            embedder.name,
            embedder.fingerprint,
            embedder.dimension,
            embedder.max_tokens,
            embedder.special_tokens,
            embedder.tokenizer.to_str(),
        )


class HashEmbedder:
    """Each word adds 1 or -1 to a coordinate that its hash chooses; then L2-normalised."""

    pass_tokens = 0  # nothing is padded

    def __init__(self, dimension: int = 64, max_tokens: int = 256, name: str = "hash") -> None:
        self.name = name
        self.fingerprint = f"{name}-{dimension}"
        self.dimension = dimension
        self.max_tokens = max_tokens
        self.special_tokens = 0
        self._tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
        # BERT's rules: words, single punctuation marks, single Chinese characters.
        self._tokenizer.normalizer = normalizers.BertNormalizer()
        self._tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()

    @property
    def tokenizer(self) -> Tokenizer:
        return self._tokenizer

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return [len(self._words(text)) for text in texts]

    def embed_queries(self, texts: Sequence[str], truncate: bool = False) -> np.ndarray:
        return self.embed_documents(texts, truncate)

    def embed_documents(self, texts: Sequence[str], truncate: bool = False) -> np.ndarray:
        vectors = np.zeros((len(texts), self.dimension), dtype=np.float32)
        for index, text in enumerate(texts):
            words = self._words(text)
            if not words:
                raise InvalidInput(f"input[{index}] is empty", f"input[{index}]")
            if len(words) > self.max_tokens and not truncate:
                raise ContextLengthExceeded(
                    f"input[{index}] has {len(words)} tokens, {self.name} takes {self.max_tokens}",
                    f"input[{index}]",
                )
            for word in words[: self.max_tokens]:
                digest = hashlib.blake2b(word.encode(), digest_size=8).digest()
                vectors[index, int.from_bytes(digest[:4]) % self.dimension] += 1 if digest[4] & 1 else -1
            if not vectors[index].any():
                vectors[index, 0] = 1.0  # words that cancel out
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        return vectors

    def _words(self, text: str) -> list[str]:
        return [text[start:end].lower() for start, end in self._tokenizer.encode(text).offsets]


def text_index(error: HamletError) -> int | None:
    """The index of the text that an embedder complains about, in the texts of its call."""
    found = re.fullmatch(r"input\[(\d+)\]", error.param or "")
    return int(found[1]) if found else None


def renumbered(error: HamletError, indices: Sequence[int], field: str = "input") -> HamletError:
    """The error of a call with a part of the texts, for a caller who knows them by `indices` of a field.

    >>> renumbered(InvalidInput("input[1] is empty", "input[1]"), [7, 4]).message
    'input[4] is empty'
    """
    index = text_index(error)
    if index is None or not indices:
        return error
    name = f"{field}[{indices[index]}]"
    return type(error)(error.message.replace(f"input[{index}]", name), name, error.code)
