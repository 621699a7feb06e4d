from __future__ import annotations

import io
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml
from rich.console import Console
from safetensors.numpy import save_file

from cluster.settings import settings
from training import plan as plan_module
from training.config import FinetuneConfig, Method
from training.examples import IGNORE, Dataset, Example, Examples
from training.memory import ModelShape, activation_memory, read_shape, state_memory
from training.plan import Prices, count, estimate_memory, make_plan, measured_values, memory_plan
from training.plan_view import show_plan

SMALL = {"name": "trial", "task": "sft", "model": "builtin:smollm2", "data": {"path": "rows.jsonl"}}


def config(**changes: object) -> FinetuneConfig:
    return FinetuneConfig.model_validate({**SMALL, **changes})


def dataset(*lengths: int) -> Dataset:
    """Rows of these lengths, the last two tokens of each trained."""
    rows = [Example([1] * n, [IGNORE] * (n - 2) + [1, 1], []) for n in lengths]
    return Dataset(Examples.of(rows), Examples.of(rows[:1]))


def write_model(folder: Path, **changes: int) -> Path:
    shapes = {
        "embed_tokens.weight": [100, 8],
        "layers.0.q_proj.weight": [8, 8],
        "layers.0.up.weight": [32, 8],
        "norm.weight": [8],
    }
    weights = {name: np.zeros(shape, dtype=np.float32) for name, shape in shapes.items()}
    save_file(weights, folder / "model.safetensors")
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "vocab_size": 100}
    (folder / "config.json").write_text(json.dumps(sizes | changes))
    return folder


def test_each_zero_stage_divides_one_more_part_by_the_workers() -> None:
    parts = [state_memory(0, 120, zero_stage=stage, num_workers=4) for stage in range(4)]
    assert parts == [
        (480.0, 480.0, 960.0),
        (480.0, 480.0, 360.0),
        (480.0, 120.0, 360.0),
        (120.0, 120.0, 360.0),
    ]


def test_a_frozen_base_needs_neither_gradients_nor_moments() -> None:
    assert state_memory(1000, 10, zero_stage=0, num_workers=1, frozen_bytes=2) == (2040.0, 40.0, 80.0)


def test_the_shape_of_a_model_is_read_from_headers(tmp_path: Path) -> None:
    shape = read_shape(write_model(tmp_path))
    assert shape.num_parameters == 100 * 8 + 8 * 8 + 32 * 8 + 8
    assert (shape.hidden_size, shape.num_layers, shape.vocabulary_size) == (8, 1, 100)
    assert shape.matrices == ((8, 8), (32, 8))  # not the embedding
    assert shape.adapter_parameters(rank=4) == 4 * (8 + 8) + 4 * (32 + 8)


def test_activations_grow_with_tokens_layers_and_targets(tmp_path: Path) -> None:
    shape = read_shape(write_model(tmp_path))
    bare = activation_memory(shape, tokens=10, targets=0, value_bytes=2, has_vocabulary_head=True)
    assert bare == 10 * 8 * 34
    with_head = activation_memory(shape, tokens=10, targets=3, value_bytes=2, has_vocabulary_head=True)
    assert with_head - bare == 3 * 100 * (2 + 4 + 4)
    assert (
        activation_memory(shape, tokens=10, targets=0, value_bytes=4, has_vocabulary_head=False) == 2 * bare
    )


def test_tokens_steps_and_trained_tokens_are_counted() -> None:
    amount = count(dataset(10, 20, 30), config(epochs=3, batch={"micro_batch_size_per_gpu": 2}))
    assert (amount.tokens_per_epoch, amount.tokens, amount.trained_tokens) == (60, 180, 18)
    assert (amount.steps_per_epoch, amount.steps, amount.rows, amount.validation_rows) == (2, 6, 3, 1)


def test_max_steps_cuts_tokens_too() -> None:
    amount = count(dataset(10, 20, 30), config(max_steps=3, batch={"micro_batch_size_per_gpu": 2}))
    assert (amount.steps, amount.epochs, amount.tokens) == (3, 1.5, 90)


def test_memory_falls_with_each_stage_and_lora_needs_least(tmp_path: Path) -> None:
    shape = read_shape(write_model(tmp_path))
    made = memory_plan(
        config(scaling={"num_workers": 4, "zero_stage": 2}), dataset(10, 20), shape, is_bf16=True
    )
    totals = {
        method: [estimate["total"] for estimate in stages.values()]
        for method, stages in made["by_method_and_stage"].items()
    }
    assert totals["full"] == sorted(totals["full"], reverse=True)
    assert made["worker_bytes"] == totals["full"][2]
    assert totals["qlora"][0] < totals["lora"][0] < totals["full"][0]
    assert list(made["by_method_and_stage"]["qlora"]) == ["0", "1", "2"]  # 4-bit weights are not cut


@pytest.mark.parametrize(
    ("task", "method", "methods"),
    [
        ("classification", "full", ["full", "lora"]),
        ("embedding", "full", ["full"]),
        ("dpo", "lora", ["lora", "qlora"]),
    ],
)
def test_memory_is_told_of_the_methods_that_train_the_task(
    tmp_path: Path, task: str, method: str, methods: list[str]
) -> None:
    shape = read_shape(write_model(tmp_path))
    made = memory_plan(config(task=task, method=method), dataset(10, 20), shape, is_bf16=True)
    assert list(made["by_method_and_stage"]) == methods


def test_linear_layers_in_4_bit_take_4_127_bits_a_weight_and_the_rest_its_own() -> None:
    shape = ModelShape(1000, 8, 1, 10, matrices=((20, 40),))
    assert shape.frozen_bytes_in_4bit(2) == pytest.approx((800 * 4.127 / 8 + 200 * 2) / 1000)


def test_recomputed_activations_are_one_layer_and_the_inputs_of_the_others() -> None:
    shape = ModelShape(1000, 8, 12, 10, matrices=())
    kept, recomputed = (
        activation_memory(
            shape, tokens=10, targets=0, value_bytes=2, has_vocabulary_head=False, keeps_layers=keeps
        )
        for keeps in (True, False)
    )
    assert kept == 12 * 10 * 8 * 34
    assert recomputed == 10 * 8 * 34 + 12 * 10 * 8 * 2


def test_the_largest_micro_batch_decides(tmp_path: Path) -> None:
    shape = read_shape(write_model(tmp_path))
    estimates = [
        estimate_memory(
            config(batch={"micro_batch_size_per_gpu": 2}),
            dataset(*lengths),
            shape,
            Method.FULL,
            0,
            is_bf16=True,
        )
        for lengths in ((5, 40, 30), (5, 40, 5))
    ]
    # Two rows padded to 40 tokens either way.
    assert estimates[0] == estimates[1]
    assert estimates[0].activations == 2 * 40 * 8 * 34 + 4 * 100 * 10


def test_the_newest_run_of_the_same_config_is_set_beside_the_estimate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HAMLET_HOME", str(tmp_path))
    settings.cache_clear()
    try:
        assert measured_values(config()) is None
        for name, epochs in (("one", 3), ("other", 4)):
            folder = tmp_path / "runs" / name
            folder.mkdir(parents=True)
            resolved = config(epochs=epochs).model_dump(mode="json")
            (folder / "config.yaml").write_text(yaml.safe_dump(resolved))
            (folder / "measured.json").write_text(json.dumps({"steps": epochs}))
        assert measured_values(config()) == {"run": "one", "steps": 3}
    finally:
        settings.cache_clear()


@pytest.fixture
def planned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FinetuneConfig:
    """A run of two workers on 60 tokens in three rows, and what a worker does of them in a second."""
    (tmp_path / "base").mkdir()
    model = write_model(tmp_path / "base")
    prepared = SimpleNamespace(dataset=dataset(10, 20, 30))
    monkeypatch.setattr(plan_module, "prepare", lambda _config: prepared)
    probed = {"micro_batches": 8, "tokens_per_s": 0.025, "precision": "bf16", "peak_memory_bytes": 1}
    monkeypatch.setattr(plan_module, "_probe", lambda _config, _prepared: probed)
    return config(epochs=3, scaling={"num_workers": 2}, model=str(model))


PRICES = Prices(per_worker_hour=2.5, input_per_1k_tokens=0.012, training_per_1k_tokens=0.016)


def shown(plan: dict[str, Any]) -> str:
    output = io.StringIO()
    show_plan(plan, Console(file=output, width=160))
    return output.getvalue()


def line_of(text: str, name: str) -> list[str]:
    """The words of the line that begins with `name`, without it."""
    return next(line for line in text.splitlines() if line.startswith(name)).removeprefix(name).split()


def test_a_plan_prices_input_and_training_each_at_its_own_and_workers_by_the_hour(
    planned: FinetuneConfig,
) -> None:
    plan = make_plan(planned, PRICES, with_probe=True)
    assert plan["train_seconds"] == 3600.0  # 180 tokens, two workers of 0.025 tokens/s
    cost = plan["cost"]
    assert (cost["worker_hours"], cost["workers"]) == (2.0, 5.0)
    assert cost["hosted"] == {
        "tokens": 180,
        "input_cost": 0.00216,
        "training_cost": 0.00288,
        "total": 0.00504,
    }
    text = shown(plan)
    assert line_of(text, "cost of the workers")[0] == "5.0000"
    assert line_of(text, "hosted price, input + training")[:5] == ["0.00216", "+", "0.00288", "=", "0.00504"]
    assert line_of(text, "worker hours")[0] == "2"
    assert "time in steps is a lower bound: the probe is one worker alone" in text


def test_what_is_not_known_is_left_out_of_a_plan_and_never_guessed(planned: FinetuneConfig) -> None:
    plan = make_plan(planned, Prices(per_worker_hour=2.5, input_per_1k_tokens=0.012), with_probe=False)
    assert plan["train_seconds"] is None
    assert plan["cost"] == {"worker_hours": None, "workers": None, "hosted": None}
    text = shown(plan)
    assert "cost of the workers" not in text
    assert "hosted price" not in text
    assert "no probe: time and worker hours are not estimated" in text


def test_what_a_run_measured_stands_beside_its_estimate(
    planned: FinetuneConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HAMLET_HOME", str(tmp_path))
    settings.cache_clear()
    folder = tmp_path / "runs" / "earlier"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(planned.model_dump(mode="json")))
    measured = {"steps": 5, "trained_tokens": 17, "train_seconds": 1800.0, "tokens_per_s": 0.1}
    (folder / "measured.json").write_text(
        json.dumps(measured | {"world_size": 2, "peak_memory_bytes": 3 * 2**29})
    )
    text = shown(make_plan(planned, PRICES, with_probe=True))
    assert "measured (earlier)" in text
    assert line_of(text, "steps") == ["3", "5"]
    assert line_of(text, "trained tokens") == ["18", "17"]
    assert line_of(text, "time in steps") == ["3,600", "s", "1,800", "s"]
    assert line_of(text, "tokens/s of a worker") == ["0.025", "0.05"]
    assert line_of(text, "peak memory of a worker")[2:] == ["1.50", "GiB"]
