"""Embedding in processes of a real cluster, on the real model."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from cluster.errors import InvalidInput, NotFound
from cluster.head_record import HeadRecord
from retrieval.__main__ import app
from retrieval.embedding import Embedder
from retrieval.embedding_workers import EmbeddingWorkers

HANDBOOK = Path(__file__).parents[3] / "examples" / "handbook" / "docs"
TEXTS = [f"{'word ' * (number % 40)}number {number}" for number in range(100)]


def test_workers_give_the_vectors_of_one_process_and_survive_a_kill(head: HeadRecord) -> None:
    alone = Embedder("builtin:minilm")
    with EmbeddingWorkers("builtin:minilm", 2) as spread:
        assert (spread.name, spread.fingerprint, spread.dimension) == (
            alone.name,
            alone.fingerprint,
            alone.dimension,
        )
        assert spread.tokenizer.encode("a word").ids == alone.tokenizer.encode("a word").ids
        expected = alone.embed_documents(TEXTS)
        for _ in range(2):
            cosines = (spread.embed_documents(TEXTS) * expected).sum(axis=1)
            assert np.all(cosines > 1 - 1e-3)
            os.kill(spread.process_ids()[0], signal.SIGKILL)
        with pytest.raises(InvalidInput, match=r"input\[57\] is empty") as caught:
            spread.embed_documents([*TEXTS[:57], " ", *TEXTS[57:]])
        assert caught.value.param == "input[57]"


def test_what_cannot_be_had_is_refused_at_once(head: HeadRecord) -> None:
    with pytest.raises(InvalidInput, match="999 workers need 999 CPUs"):
        EmbeddingWorkers("builtin:minilm", 999)
    with pytest.raises(NotFound, match="no-such-model"):
        EmbeddingWorkers("./no-such-model", 1)


def test_a_folder_is_ingested_by_workers(head: HeadRecord) -> None:
    arguments = ["ingest", str(HANDBOOK), "-c", "spread"]
    made = CliRunner().invoke(app, [*arguments, "--workers", "2"], catch_exceptions=False)
    assert "12 documents added" in made.stdout
    again = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert "0 documents added, 0 updated, 12 unchanged" in again.stdout
