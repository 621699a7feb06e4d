from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from transformers import RobertaConfig, RobertaModel

from cluster.errors import InvalidInput
from training.config import FinetuneConfig
from training.examples import Dataset, Example, Examples
from training.tables import Tables, read_tables, refuse_what_has_no_row, weight_shapes

MakeModel = Callable[..., Any]


def config_of(task: str, **changes: Any) -> FinetuneConfig:
    values = {"name": "t", "task": task, "model": "base", "data": {"path": "rows"}, "max_length_tokens": 100}
    return FinetuneConfig.model_validate(values | changes)


def dataset_of(*segments: list[int]) -> Dataset:
    rows = Examples.of(Example([1] * len(segment), [0], segment) for segment in segments)
    return Dataset(rows, rows)


def test_learned_positions_are_counted_and_rotary_ones_have_no_end(
    tmp_path: Path, tiny_bert: MakeModel, tiny_llama: MakeModel
) -> None:
    tiny_bert().save_pretrained(tmp_path / "bert")
    tiny_llama().save_pretrained(tmp_path / "llama")
    assert read_tables(tmp_path / "bert") == Tables(50, 64)
    assert read_tables(tmp_path / "llama") == Tables(300, None)


def test_positions_counted_from_the_padding_token_are_fewer(tmp_path: Path) -> None:
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 16}
    RobertaModel(RobertaConfig(vocab_size=50, max_position_embeddings=34, **sizes)).save_pretrained(tmp_path)
    assert read_tables(tmp_path) == Tables(50, 32)


@pytest.mark.parametrize(
    ("task", "longest"), [("classification", 80), ("embedding", 50), ("dpo", 50)], ids=str
)
def test_the_texts_of_a_row_are_counted_as_the_model_sees_them(task: str, longest: int) -> None:
    config = config_of(task, **({"method": "lora"} if task == "dpo" else {}))
    dataset = dataset_of([0] * 50 + [1] * 30, [0, 1])
    refuse_what_has_no_row(Tables(50, longest), config, dataset, 50)
    with pytest.raises(
        InvalidInput, match=f"a row has {longest} tokens, and base has {longest - 1} positions"
    ):
        refuse_what_has_no_row(Tables(50, longest - 1), config, dataset, 50)


def test_rows_within_the_limit_fit_a_model_of_as_many_positions() -> None:
    refuse_what_has_no_row(Tables(50, 100), config_of("classification"), dataset_of([0] * 100), 50)


def test_a_model_without_a_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"has no config\.json; save"):
        read_tables(tmp_path)


def test_weights_that_lie_there_in_two_forms_are_counted_once(tiny_bert: MakeModel, tmp_path: Path) -> None:
    model = tiny_bert()
    for folder, size in (("whole", "5GB"), ("cut", "40KB")):
        model.save_pretrained(tmp_path / folder, max_shard_size=size)
        save_file({"consolidated": torch.zeros(999)}, tmp_path / folder / "consolidated.safetensors")
        assert "consolidated" not in weight_shapes(tmp_path / folder)
        found = {name for name, _ in model.named_parameters()}
        assert weight_shapes(tmp_path / folder).keys() == found
    next((tmp_path / "cut").glob("model-*.safetensors")).unlink()
    with pytest.raises(InvalidInput, match="cannot be read"):
        weight_shapes(tmp_path / "cut")


def test_damaged_weights_are_refused_before_a_worker_reads_them(
    tiny_bert: Callable[..., Any], tmp_path: Path
) -> None:
    tiny_bert().save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(InvalidInput, match=f"the weights in {tmp_path} cannot be read"):
        read_tables(tmp_path)
