"""A sentence-embedding model by sentence-transformers, on torch: every kind of model, on GPU and CPU."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers.utils import logging as transformers_logging

from cluster.processor import has_bf16
from retrieval.padding import bounds_of
from retrieval.sentence_model import ModelInfo

# Its bar for a load of half a second lands in the middle of other output.
transformers_logging.disable_progress_bar()


class SentenceForward(nn.Module):
    """The whole model as one function of two tensors, which a converter can trace."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """`[n, seq_len], int64` -> [n, dimension], as long as the model makes them."""
        vectors: Tensor = self.model({"input_ids": input_ids, "attention_mask": attention_mask})[
            "sentence_embedding"
        ]
        return vectors


class TorchSentenceModel:
    """A `SentenceModel`, in bfloat16 where this machine multiplies it itself."""

    def __init__(self, folder: Path) -> None:
        on_gpu = torch.cuda.is_available()
        self._device = "cuda" if on_gpu else "cpu"
        self._dtype = torch.bfloat16 if has_bf16(on_gpu) else None
        self.bounds = bounds_of(on_gpu=on_gpu)
        model: Any = SentenceTransformer(
            str(folder),
            device=self._device,
            local_files_only=True,
            trust_remote_code=False,
            model_kwargs={"use_safetensors": True},
        )
        self.info = _info(model)
        self.module = SentenceForward(model).eval()

    @torch.inference_mode()
    def vectors(
        self, input_ids: np.ndarray, attention_mask: np.ndarray, *, in_float32: bool = False
    ) -> np.ndarray:
        """See `SentenceModel.vectors`; `in_float32` is exact, and what others are compared with."""
        inputs = [torch.from_numpy(values).to(self._device) for values in (input_ids, attention_mask)]
        dtype = None if in_float32 else self._dtype
        with torch.autocast(self._device, dtype) if dtype else nullcontext():
            vectors = self.module(*inputs)
        return torch.nn.functional.normalize(vectors.float(), dim=1).cpu().numpy()


def _info(model: Any) -> ModelInfo:
    # The Rust tokenizer itself: the wrapper around it costs as much again per text.
    tokenizer = Tokenizer.from_str(model.tokenizer.backend_tokenizer.to_str())
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return ModelInfo(
        dimension=int(model.get_embedding_dimension()),
        max_tokens=int(model.max_seq_length or model.tokenizer.model_max_length),
        pad_token_id=int(model.tokenizer.pad_token_id or 0),
        query_prompt=_prompt(model.prompts, "query"),
        document_prompt=_prompt(model.prompts, "document"),
        tokenizer_json=tokenizer.to_str(),
    )


def _prompt(prompts: dict[str, str], kind: str) -> str:
    """The prompt a model was trained to see before a query or a passage; most have none."""
    aliases = {"query": ("query",), "document": ("document", "passage", "corpus")}
    return next((prompts[name] for name in aliases[kind] if prompts.get(name)), "")
