"""What of a run is left for people: its README and what it measured."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cluster.cards import ModelCard, Parity
from cluster.storage import upload_folder
from training import model_card
from training.config import FinetuneConfig, Precision
from training.examples import Dataset, Example, Examples
from training.loop_state import LoopResult
from training.model_card import measured, readme
from training.prepare import Prepared
from training.row_files import Row
from training.sources import Rows

ROWS = [Row(number, {"text": str(number)}) for number in range(7)]
RESULT = LoopResult(
    Precision.BF16,
    0.25,
    {"accuracy": 0.75},
    trained_tokens=12_345,
    steps=40,
    train_seconds=80.0,
    confusion={"ham": {"ham": 3}, "spam": {"ham": 1}},
    examples_per_s=3.5,
    tokens_per_s=154.0,
    peak_memory_bytes=3 * 2**29,
    world_size=2,
)
MakeCard = Callable[..., ModelCard]


@pytest.fixture
def written(make_card: MakeCard) -> Callable[..., str]:
    """`written(labels=…)`: the README of a run."""

    def write(**changes: Any) -> str:
        values = {"name": "t", "task": "classification", "model": "builtin:minilm", "data": {"path": "rows"}}
        config = FinetuneConfig.model_validate(values)
        prepared = Prepared(
            Rows(ROWS[:5], ROWS[5:], "rows.tsv"), Dataset(Examples.of([]), Examples.of([])), None
        )
        proof = Parity(passed=True, max_metric_difference=0.00012)
        figures = {"validation_loss": 0.25, "accuracy": 0.75}
        card = make_card(parity=proof, metrics=figures, data_sha256="5e" * 32, **changes)
        return readme(card, config, prepared, RESULT, ["loss.svg", "grad_norm.svg"])

    return write


def test_the_readme_says_what_the_model_is_how_good_and_how_it_was_made(
    written: Callable[..., str], make_card: MakeCard
) -> None:
    text = written()
    assert text.startswith(f"# {make_card().id}\n")
    for part in (
        "Fine-tuned from `builtin:minilm` (classification, full) on rows.tsv: 5 training and 2 validation rows.",
        "| validation loss | 0.2500 |",
        "| accuracy | 0.7500 |",
        "| steps | 40 |",
        "| trained tokens | 12,345 |",
        "| time in steps | 80 s with 2 workers (bf16) |",
        "| throughput | 3.5 examples/s, 154 tokens/s |",
        "| peak memory of a worker | 1.50 GiB |",
        f"| weights | `{make_card().weights_uri}` |",
        "(difference 0.00012)",
        "begins with `5e5e5e5e5e5e5e5e`",
        "![loss](loss.svg)\n![grad norm](grad_norm.svg)",
    ):
        assert part in text
    assert "precision" not in text


def test_the_readme_of_a_classifier_has_its_classes(written: Callable[..., str]) -> None:
    text = written(labels=("ham", "spam"))
    assert "| ham   |    0.7500 | 1.0000 | 0.8571 |    3 |" in text
    assert "| spam                   |   1 |    0 |" in text


def test_the_card_names_the_base_and_its_commit(tmp_path: Path) -> None:
    values = {"name": "t", "task": "classification", "model": "org/name", "data": {"path": "rows"}}
    rows = Examples.of([Example([1], [0], [])])
    prepared = Prepared(Rows(ROWS[:5], ROWS[5:], "rows.tsv"), Dataset(rows, rows, ("a", "b")), None, "5e77")
    weights = upload_folder(tmp_path / "none", str(tmp_path / "weights"))
    card = model_card.make_card(
        FinetuneConfig.model_validate(values),
        prepared,
        model_id="ft:name:me:t:1",
        weights_uri=weights,
        metrics={},
        trained_tokens=1,
        parity=Parity(passed=True, max_metric_difference=0.0),
    )
    assert (card.base_model, card.base_revision) == ("org/name", "5e77")
    assert (card.labels, card.is_pair) == (("a", "b"), False)


def test_what_a_run_measured_is_what_a_later_plan_reads() -> None:
    assert measured(RESULT) == {
        "steps": 40,
        "train_seconds": 80.0,
        "peak_memory_bytes": 3 * 2**29,
        "trained_tokens": 12_345,
        "examples_per_s": 3.5,
        "tokens_per_s": 154.0,
        "world_size": 2,
        "used_gpu": False,
        "precision": "bf16",
    }
