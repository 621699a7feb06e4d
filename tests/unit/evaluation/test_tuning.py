"""Which rows the models of a comparison are trained on: the same behind every placeholder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from cluster.cards import ModelCard
from cluster.registry import Registry
from evaluation import tuning
from evaluation.config import CompareConfig, TuningConfig
from evaluation.tuning import train_all

MakeCard = Callable[..., ModelCard]


@pytest.fixture
def comparison(tmp_path: Path) -> CompareConfig:
    """A copy of the example whose questions, rows and documents are the user's, and its training file is not."""
    (tmp_path / "tune.yaml").write_text(
        f"task: sft\ndata:\n  path: {tmp_path}/theirs.jsonl\n  validation_path: {tmp_path}/validation.jsonl\n"
    )
    for name in ("mine", "theirs"):
        (tmp_path / f"{name}.jsonl").write_text("{}\n")
    return CompareConfig.model_validate(
        {
            "questions": tmp_path / "test.jsonl",
            "training": tmp_path / "mine.jsonl",
            "documents": tmp_path / "docs",
            "collection": "mine",
            "tuning": {"config": tmp_path / "tune.yaml", "seeds": [1]},
            "cells": {"tuned": "{tuned}", "raft": "{raft}+rag"},
            "output": tmp_path / "out",
        }
    )


@pytest.fixture
def trained_on(monkeypatch: pytest.MonkeyPatch, make_card: MakeCard) -> Callable[..., list[list[str]]]:
    """Trains as a comparison does; returns what each run was told of its data, without the seed."""
    runs: list[list[str]] = []

    def trainer(tuning: TuningConfig, run_id: str, overrides: Sequence[str]) -> tuple[str, float]:
        runs.append([override for override in overrides if override.startswith("data.")])
        card = make_card(id=f"ft:m:hamlet:{len(runs)}:1")
        Registry().register(card)
        return card.id, 1.0

    def with_passages(_config: CompareConfig, rows: Path, _collection: str) -> Path:
        return rows.with_suffix(".passages")

    def train(config: CompareConfig, **more: Any) -> list[list[str]]:
        train_all(config, "eval-1", "seed 1", 1, (), trainer, **more)
        return runs

    monkeypatch.setattr(tuning, "write_rows_with_passages", with_passages)
    return train


def test_every_model_is_trained_on_the_rows_that_the_comparison_names(
    comparison: CompareConfig, trained_on: Callable[..., list[list[str]]], tmp_path: Path
) -> None:
    assert trained_on(comparison) == [
        [f"data.path={tmp_path}/mine.jsonl", "data.validation_path=null"],
        [f"data.path={tmp_path}/mine.passages", "data.validation_path=null"],
    ]


def test_the_trainings_own_validation_rows_stay_with_its_own_rows(
    comparison: CompareConfig, trained_on: Callable[..., list[list[str]]], tmp_path: Path
) -> None:
    own = comparison.model_copy(update={"training": tmp_path / "theirs.jsonl", "cells": {"tuned": "{tuned}"}})
    changed = tmp_path / "changed.jsonl"
    changed.write_text("{}\n")
    trained_on(own)
    assert trained_on(own, rows=changed) == [
        [f"data.path={tmp_path}/theirs.jsonl"],
        [f"data.path={changed}"],
    ]


def test_validation_rows_that_tuning_names_are_kept(
    comparison: CompareConfig, trained_on: Callable[..., list[list[str]]], tmp_path: Path
) -> None:
    assert comparison.tuning is not None
    chosen = "data.validation_path=held-out.jsonl"
    named = comparison.tuning.model_copy(update={"overrides": (chosen,)})
    config = comparison.model_copy(update={"tuning": named, "cells": {"tuned": "{tuned}"}})
    assert trained_on(config) == [[chosen, f"data.path={tmp_path}/mine.jsonl"]]


def test_without_rows_in_the_comparison_the_training_file_names_them(
    comparison: CompareConfig, trained_on: Callable[..., list[list[str]]]
) -> None:
    config = comparison.model_copy(update={"training": None, "cells": {"tuned": "{tuned}"}})
    assert trained_on(config) == [[]]
