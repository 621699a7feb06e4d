"""An exported embedder makes the vectors that were trained, by the library that serves it. No Ray."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from retrieval.embedding import Embedder
from retrieval.torch_sentence_model import TorchSentenceModel
from training.config import FinetuneConfig
from training.encoder_modules import EmbeddingModule, collate_texts
from training.export import export_model
from training.modules import build_module
from training.prepare import prepare


class StillEngine:
    """An engine that has not trained: what it gathers is what the module holds."""

    def __init__(self, module: EmbeddingModule) -> None:
        self.module = module

    def gathered_state(self, is_writer: bool) -> dict[str, torch.Tensor] | None:
        state = {n: p.detach().clone() for n, p in self.module.named_parameters() if p.requires_grad}
        return state if is_writer else None


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize(
    "prompts",
    [{}, {"query": "w90 w91 w92 ", "document": "w70 w71 "}, {"query": "w90 ", "passage": "w70 w71 "}],
)
def test_a_trained_vector_is_the_served_one(
    write_bert: Callable[[Path], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    pooling: str,
    prompts: dict[str, str],
) -> None:
    base = write_bert(tmp_path / "base")
    kinds = {"": "Transformer", "1_Pooling": "Pooling", "2_Normalize": "Normalize"}
    modules = [
        {"idx": number, "name": str(number), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for number, (path, kind) in enumerate(kinds.items())
    ]
    (base / "modules.json").write_text(json.dumps(modules))
    (base / "config_sentence_transformers.json").write_text(json.dumps({"prompts": prompts}))
    (base / "1_Pooling").mkdir()
    (base / "1_Pooling" / "config.json").write_text(
        json.dumps({"embedding_dimension": 32, "pooling_mode": pooling})
    )
    rows = [{"query": f"w{n} w{n + 1}", "passage": f"w{n + 9} w{n + 5} w{n}"} for n in range(6)]
    file = tmp_path / "pairs.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    values = {
        "name": "t",
        "task": "embedding",
        "model": str(base),
        "data": {"path": str(file), "validation_path": str(file)},
        "max_length_tokens": 32,
    }
    config = FinetuneConfig.model_validate(values)
    module = build_module(config, base, (), frozen_dtype=torch.float32)
    assert isinstance(module, EmbeddingModule)
    export = tmp_path / "export"
    export_model(StillEngine(module), module, config, str(export), is_writer=True)  # type: ignore[arg-type]

    batch = collate_texts(list(prepare(config).dataset.train), 0)
    with torch.no_grad():
        trained = module.eval()._embed(batch["input_ids"], batch["attention_mask"]).numpy()
    monkeypatch.setattr(
        "retrieval.embedding.load_sentence_model", lambda folder, _: TorchSentenceModel(folder)
    )
    embedder = Embedder(str(export))
    queries = embedder.embed_queries([row["query"] for row in rows])
    passages = embedder.embed_documents([row["passage"] for row in rows])
    served = np.stack([vectors[n] for n in range(len(rows)) for vectors in (queries, passages)])
    assert (trained * served).sum(axis=1) == pytest.approx(1.0, abs=1e-3)
