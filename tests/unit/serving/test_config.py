from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from serving.config import DeploymentConfig, ServingConfig, deployment_options

REPOSITORY = Path(__file__).parents[3]


def test_the_shipped_serve_config_is_valid_for_serve_and_for_us() -> None:
    from ray.serve.schema import ServeDeploySchema

    document = yaml.safe_load((REPOSITORY / "examples" / "serve.yaml").read_text())
    schema = ServeDeploySchema.model_validate(document)
    assert schema.applications[0].import_path == "serving.app:build_app"
    assert schema.http_options.host == "127.0.0.1"
    ServingConfig.model_validate(schema.applications[0].args)


def test_defaults_leave_room_to_train_with_two_workers_on_four_logical_cpus() -> None:
    config = ServingConfig()
    parts = (config.generator, config.classifier, config.embedder, config.retriever, config.router)
    assert sum(part.num_cpus for part in parts) <= 1.0


def test_unknown_keys_are_refused() -> None:
    with pytest.raises(ValidationError, match="modle"):
        ServingConfig.model_validate({"generator": {"modle": "builtin:smollm2"}})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"min_replicas": 3, "max_replicas": 2}, "exceeds max_replicas 2"),
        ({"target_ongoing_requests": 100, "max_ongoing_requests": 10}, "no replica would ever be added"),
        ({"max_replicas": 2, "upscale_delay_s": 2, "look_back_period_s": 30}, "would swing"),
        ({"max_replicas": 2, "downscale_delay_s": 2, "look_back_period_s": 30}, "would swing"),
    ],
)
def test_scaling_that_cannot_settle_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        DeploymentConfig(**values)


def test_options_scale_only_where_a_range_is_given() -> None:
    assert deployment_options(DeploymentConfig())["num_replicas"] == 1
    scaled = deployment_options(DeploymentConfig(max_replicas=3))
    assert scaled["autoscaling_config"]["max_replicas"] == 3
    assert "num_replicas" not in scaled
    assert scaled["max_surge_percent"] == 100


def test_replicas_are_kept_apart_only_where_it_is_asked_for() -> None:
    assert deployment_options(DeploymentConfig())["max_replicas_per_node"] is None
    assert deployment_options(DeploymentConfig(max_replicas_per_node=1))["max_replicas_per_node"] == 1


def test_each_generator_is_a_deployment_named_after_its_model() -> None:
    models = ["Qwen/Qwen3-1B", "ft:smollm2:acme:whole:0a1b2c3d"]
    config = ServingConfig.model_validate({"further_generators": [{"model": model} for model in models]})
    assert list(config.generators) == ["generator", "generator-qwen3-1b", "generator-0a1b2c3d"]


@pytest.mark.parametrize("models", [["builtin:smollm2"], ["a/Name-1B", "b/name-1b"]])
def test_two_generators_of_one_name_are_refused(models: list[str]) -> None:
    with pytest.raises(ValidationError, match="would be the second model named"):
        ServingConfig.model_validate({"further_generators": [{"model": model} for model in models]})


def test_what_may_be_tuned_must_be_served_by_the_generator_of_its_base() -> None:
    values = {
        "further_generators": [{"model": "Qwen/Qwen3-1B", "max_lora_rank": 8}],
        "fine_tuning": {"bases": ["Qwen/Qwen3-1B"]},
    }
    with pytest.raises(ValidationError, match="exceeds max_lora_rank 8 of the generator of Qwen/Qwen3-1B"):
        ServingConfig.model_validate(values)
