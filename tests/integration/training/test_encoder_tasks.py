"""Encoders trained by whole runs: masked language modelling, a classifier on top of it, and an embedder."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from sentence_transformers import SentenceTransformer
from transformers import AutoTokenizer

from cluster.cards import ModelCard, ModelKind
from cluster.head_record import HeadRecord
from cluster.registry import Registry

REPOSITORY = Path(__file__).parents[3]


def write_rows(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def run(folder: Path, **values: Any) -> ModelCard:
    """A run of one worker; its card is found by its alias."""
    alias = values["name"]
    config = {
        "epochs": 2,
        "learning_rate": 3e-3,
        "precision": "float32",
        "output": {"alias": alias},
        **values,
    }
    path = folder / f"{alias}.yaml"
    path.write_text(yaml.safe_dump(config))
    command = [sys.executable, "-m", "training", "run", str(path)]
    done = subprocess.run(command, cwd=REPOSITORY, env=dict(os.environ), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    return Registry().get(alias)


def sentences(seed: int, count: int) -> list[str]:
    """Words that follow each other by one: what a masked one was can be learned."""
    draw = random.Random(seed)
    starts = [draw.randrange(80) for _ in range(count)]
    return [" ".join(f"w{start + step}" for step in range(10)) for start in starts]


@pytest.mark.soak
def test_a_masked_model_is_a_base_that_a_classifier_starts_from(
    head: HeadRecord, write_bert: Callable[[Path], Path], tmp_path: Path
) -> None:
    data = {
        name: write_rows(tmp_path / f"{name}.jsonl", [{"text": text} for text in sentences(seed, 60)])
        for seed, name in enumerate(("path", "validation_path"))
    }
    base = write_bert(tmp_path / "base")
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.mask_token = "[UNK]"
    tokenizer.save_pretrained(base)
    card = run(tmp_path, name="masked", task="mlm", model=str(base), data=data, epochs=4)
    assert card.kind is ModelKind.BASE
    assert card.parity.passed
    assert card.metrics["perplexity"] < 96  # of 96 words: what guessing gives
    labelled = [{"text": text, "label": "ab"[n % 2]} for n, text in enumerate(sentences(2, 40))]
    path = write_rows(tmp_path / "labelled.jsonl", labelled)
    data = {"path": path, "validation_path": path}
    classifier = run(tmp_path, name="on-top", task="classification", model=card.id, data=data)
    assert (classifier.kind, classifier.base_model) == (ModelKind.CLASSIFIER, card.id)


@pytest.mark.soak
def test_an_embedder_is_exported_as_sentence_transformers_reads_it(
    head: HeadRecord, write_bert: Callable[[Path], Path], tmp_path: Path
) -> None:
    rows = [{"query": f"w{n} w{n + 1}", "passage": f"w{n + 40} w{n + 41} w{n}"} for n in range(40)]
    data = {
        "path": write_rows(tmp_path / "pairs.jsonl", rows),
        "validation_path": write_rows(tmp_path / "held-out.jsonl", rows[::3]),
    }
    model = str(write_bert(tmp_path / "base"))
    card = run(tmp_path, name="embedder", task="embedding", model=model, data=data, epochs=8)
    assert card.kind is ModelKind.EMBEDDER
    assert card.parity.passed
    tuned = SentenceTransformer(card.weights_uri, device="cpu")
    questions = tuned.encode([row["query"] for row in rows])
    passages = tuned.encode([row["passage"] for row in rows])
    nearest = (questions @ passages.T).argmax(axis=1)
    right = float((nearest == range(len(rows))).mean())
    assert right == pytest.approx(1.0, abs=0.2)
    assert questions.shape == (40, 32)
    assert (questions**2).sum(axis=1) == pytest.approx([1.0] * 40, abs=1e-3)
