"""A sentence-embedding model in memory: what every library that computes one offers, and needs beside its weights."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from tokenizers import Encoding

from retrieval.padding import Bounds

INFO_FILE = "info.json"

# `input_ids` and `attention_mask` of a batch: [n, seq_len], int64, right-padded.
Inputs = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class ModelInfo:
    """What is needed of a model beside its weights.

    `max_tokens` of a text count its special tokens. The prompts stand before each text of their kind.
    `tokenizer_json` neither truncates nor pads.
    """

    dimension: int
    max_tokens: int
    pad_token_id: int
    query_prompt: str
    document_prompt: str
    tokenizer_json: str

    def write(self, folder: Path) -> None:
        (folder / INFO_FILE).write_text(json.dumps(asdict(self)), encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> ModelInfo:
        return cls(**json.loads((folder / INFO_FILE).read_text(encoding="utf-8")))


class SentenceModel(Protocol):
    """One model, ready to compute; `bounds` are those of its batches."""

    info: ModelInfo
    bounds: Bounds

    def vectors(self, input_ids: np.ndarray, attention_mask: np.ndarray) -> np.ndarray:
        """`input_ids, attention_mask: [n, seq_len], int64, right-padded` -> [n, dimension], float32, of length 1."""


def padded_inputs(encodings: Sequence[Encoding], pad_token_id: int) -> Inputs:
    """A batch as `SentenceModel.vectors` takes it."""
    width = max(len(encoding.ids) for encoding in encodings)
    input_ids = np.full((len(encodings), width), pad_token_id, dtype=np.int64)
    attention_mask = np.zeros((len(encodings), width), dtype=np.int64)
    for row, encoding in enumerate(encodings):
        input_ids[row, : len(encoding.ids)] = encoding.ids
        attention_mask[row, : len(encoding.ids)] = 1
    return input_ids, attention_mask
