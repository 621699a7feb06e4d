from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from cluster.errors import DataError, InvalidInput
from cluster.settings import settings
from training import prepare as prepare_module
from training.config import FinetuneConfig
from training.prepare import prepare
from training.token_cache import NUM_KEPT
from training.validation import Options, validate

MakeModel = Callable[..., Any]


@pytest.fixture
def model(tmp_path: Path, tiny_bert: MakeModel, word_tokenizer: PreTrainedTokenizerFast) -> Path:
    """A base in a folder: 50 token ids, 64 positions."""
    folder = tmp_path / "base"
    tiny_bert().save_pretrained(folder)
    word_tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(autouse=True)
def cached_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of this test's token cache."""
    monkeypatch.setenv("HAMLET_HOME", str(tmp_path / "home"))
    settings.cache_clear()
    return tmp_path / "home" / "cache" / "tokens"


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


def test_the_commit_of_a_base_from_the_hub_is_known_and_another_folder_has_none(model: Path) -> None:
    fetched = model.parent / "models--org--name" / "snapshots" / "5e77"
    shutil.copytree(model, fetched)
    assert prepare(config_of(model, ["the cat", "the dog"])).base_revision is None
    assert prepare(config_of(fetched, ["the cat", "the dog"])).base_revision == "5e77"


def test_a_run_takes_what_validate_passes_though_its_rare_classes_would_all_be_held_out(
    model: Path, tmp_path: Path
) -> None:
    file = tmp_path / "rare.tsv"
    rows = [f"the cat {letter}\t{letter}" for letter in "abcdefghijklmnop"]
    file.write_text("text\tlabel\n" + "\n".join([*rows, *(f"the dog {n}\toften" for n in range(20))]))
    config = config_of(model, [], data={"path": str(file), "validation_share": 0.5})
    assert validate(file, Options(config.data, config.task)).num_errors == 0
    dataset = prepare(config).dataset
    assert len(dataset.labels) == 17
    assert {row.labels[0] for row in dataset.train} == set(range(17))


def test_a_fault_in_a_row_that_is_held_out_is_one_of_the_training_file(model: Path, tmp_path: Path) -> None:
    file = tmp_path / "rows.tsv"
    rows = [f"the cat {n}\t{n % 2}" for n in range(8)]
    config = config_of(model, [], data={"path": str(file), "validation_share": 0.5})
    for faulty in range(8):
        file.write_text(
            "text\tlabel\n" + "\n".join([*rows[:faulty], f" \t{faulty % 2}", *rows[faulty + 1 :]])
        )
        with pytest.raises(DataError, match=f"training file, line {faulty + 2}"):
            prepare(config)


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


def refuse_to_tokenise(*_: Any) -> None:
    raise AssertionError("the rows are tokenised again")


def test_the_same_rows_are_tokenised_once(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_of(model, ["the " * 68, "the dog"], max_length_tokens=8, class_weight="balanced")
    first = prepare(config).dataset
    monkeypatch.setattr(prepare_module, "prepare_classification", refuse_to_tokenise)
    again = prepare(config.model_copy(update={"learning_rate": 1e-3, "epochs": 9})).dataset
    assert (list(again.train), list(again.validation)) == (list(first.train), list(first.validation))
    assert (again.labels, again.class_weights) == (first.labels, first.class_weights)
    assert again.notices == ("1 of 2 rows were cut to 8 tokens",)


def test_weights_that_were_damaged_since_are_refused_beside_kept_tokens(model: Path) -> None:
    config = config_of(model, ["the cat", "the dog"])
    prepare(config)
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(InvalidInput, match="cannot be read"):
        prepare(config)


def other_rows(model: Path) -> FinetuneConfig:
    return config_of(model, ["the cat", "the bird"])


def other_limit(model: Path) -> FinetuneConfig:
    return config_of(model, ["the cat", "the dog"], max_length_tokens=9)


def other_tokenizer(model: Path) -> FinetuneConfig:
    (model / "tokenizer_config.json").write_text((model / "tokenizer_config.json").read_text() + " ")
    return config_of(model, ["the cat", "the dog"])


@pytest.mark.parametrize("change", [other_rows, other_limit, other_tokenizer])
def test_whatever_changes_tokens_makes_new_ones(
    model: Path, change: Callable[[Path], FinetuneConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(config_of(model, ["the cat", "the dog"]))
    monkeypatch.setattr(prepare_module, "prepare_classification", refuse_to_tokenise)
    with pytest.raises(AssertionError, match="tokenised again"):
        prepare(change(model))


def test_rows_that_change_while_they_are_read_are_refused_and_not_kept(
    model: Path, cached_tokens: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(model, ["the cat", "the dog"])
    tokenise = prepare_module.prepare_classification

    def write_and_tokenise(*arguments: Any) -> Any:
        with (model.parent / "rows.tsv").open("a") as file:
            file.write("the bird\t0\n")
        return tokenise(*arguments)

    monkeypatch.setattr(prepare_module, "prepare_classification", write_and_tokenise)
    with pytest.raises(DataError, match="the rows changed while they were read"):
        prepare(config)
    assert list(cached_tokens.iterdir()) == []


def test_the_cache_of_tokens_keeps_what_was_used_last(model: Path, cached_tokens: Path) -> None:
    def used(number: int) -> set[str]:
        prepare(config_of(model, ["the cat", f"the dog {number}"]))
        return {folder.name for folder in cached_tokens.iterdir()}

    (first,) = used(0)
    (second,) = used(1) - {first}
    for number in range(2, NUM_KEPT):
        used(number)
    used(0)
    kept = used(NUM_KEPT)
    assert len(kept) == NUM_KEPT
    assert first in kept
    assert second not in kept
