from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from cluster.errors import InvalidInput
from training.config import FinetuneConfig
from training.prepare import prepare

MakeModel = Callable[..., Any]


@pytest.fixture
def model(tmp_path: Path, tiny_bert: MakeModel, word_tokenizer: PreTrainedTokenizerFast) -> Path:
    """A base in a folder: 50 token ids, 64 positions."""
    folder = tmp_path / "base"
    tiny_bert().save_pretrained(folder)
    word_tokenizer.save_pretrained(folder)
    return folder


def config_of(folder: Path, rows: list[str], **changes: Any) -> FinetuneConfig:
    path = folder.parent / "rows.tsv"
    path.write_text("text\tlabel\n" + "".join(f"{text}\t{n % 2}\n" for n, text in enumerate(rows)))
    data = {"path": str(path), "validation_path": str(path)}
    values = {"name": "t", "task": "classification", "model": str(folder), "data": data}
    return FinetuneConfig.model_validate(values | changes)


def test_rows_and_tokenizer_are_ready_for_a_run(model: Path) -> None:
    prepared = prepare(config_of(model, ["the cat", "the dog"]))
    assert len(prepared.dataset.train) == 2
    assert prepared.tokenizer.decode(prepared.dataset.validation[0].input_ids) == "[CLS] the cat [SEP]"


def test_a_model_without_a_tokenizer_is_refused(model: Path) -> None:
    for file in model.glob("token*"):
        file.unlink()
    with pytest.raises(
        InvalidInput, match=r"has no tokenizer that can be used \(it knows no words\); save it"
    ):
        prepare(config_of(model, ["the cat", "the dog"]))


def test_a_tokenizer_that_cannot_be_read_is_refused(model: Path) -> None:
    (model / "tokenizer.json").write_text("{ half")
    with pytest.raises(
        InvalidInput, match=r"no tokenizer that can be used \(.+\); save it beside the weights"
    ):
        prepare(config_of(model, ["the cat", "the dog"]))


def test_a_row_longer_than_the_positions_of_its_model_is_refused_with_both_numbers(model: Path) -> None:
    rows = ["the " * 68, "the cat"]
    message = r"a row has 70 tokens, and .* has 64 positions; set max_length_tokens=64"
    with pytest.raises(InvalidInput, match=message) as caught:
        prepare(config_of(model, rows, max_length_tokens=512))
    assert caught.value.param == "max_length_tokens"
    assert max(prepare(config_of(model, rows, max_length_tokens=64)).dataset.train.lengths) == 64


def test_a_tokenizer_of_more_ids_than_its_model_has_rows_is_refused_with_both_numbers(
    model: Path, word_tokenizer: PreTrainedTokenizerFast
) -> None:
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"vocab_size": 38}))
    message = f"has {len(word_tokenizer)} token ids, and its weights have rows for 38; save the tokenizer"
    with pytest.raises(InvalidInput, match=message):
        prepare(config_of(model, ["the cat", "the dog"]))


def test_classes_are_weighed_by_their_training_rows_when_asked(model: Path) -> None:
    rows = ["the cat", "the dog", "the cat"]
    assert prepare(config_of(model, rows)).dataset.class_weights == ()
    assert prepare(config_of(model, rows, class_weight="balanced")).dataset.class_weights == (0.75, 1.5)
