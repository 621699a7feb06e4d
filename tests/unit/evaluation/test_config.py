from __future__ import annotations

from pathlib import Path

import pytest

from cluster.errors import ConfigError
from evaluation.config import Weights, load_config

EXAMPLE = Path(__file__).parents[3] / "examples" / "compare-handbook.yaml"


def test_the_example_is_read_and_overridden() -> None:
    config = load_config(EXAMPLE, ["concurrency=2", "weights.inference_time=0.3", "cells.auto=auto"])
    assert config.concurrency == 2
    assert config.weights.inference_time == 0.3
    assert list(config.cells) == ["plain", "tuned", "rag", "tuned+rag", "auto"]


def test_weights_are_scaled_to_a_sum_of_one() -> None:
    shares = Weights(customization=2, computational_cost=1, inference_time=1).shares
    assert shares == {"customization": 0.5, "computational_cost": 0.25, "inference_time": 0.25}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("colour=red", "colour"),
        ("concurrency=0", "concurrency"),
        ("weights={customization: 0, computational_cost: 0, inference_time: 0}", "all 0"),
        ("system_prompts.router=Answer.", "router"),
        ("concurrency", "form key=value"),
        ("name.first=x", "not a section"),
        ("cells={}", "cells"),
    ],
)
def test_a_fault_is_named(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(EXAMPLE, [override])


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read"):
        load_config(tmp_path / "none.yaml", [])
