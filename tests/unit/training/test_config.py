from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from cluster.errors import ConfigError
from training.config import FinetuneConfig, LoraConfig, load_config

REPOSITORY = Path(__file__).parents[3]
MINIMAL = "name: trial\ntask: sft\nmodel: builtin:smollm2\ndata:\n  path: rows.jsonl\n"

Load = Callable[..., FinetuneConfig]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """`load("epochs=1", text="...")`: a config file with overrides."""

    def read(*overrides: str, text: str = MINIMAL) -> FinetuneConfig:
        path = tmp_path / "run.yaml"
        path.write_text(text, encoding="utf-8")
        return load_config(path, list(overrides))

    return read


def test_a_minimal_file_is_enough(load: Load) -> None:
    config = load()
    assert (config.task, config.model, config.data.path) == ("sft", "builtin:smollm2", "rows.jsonl")
    assert config.global_batch_size == 8


@pytest.mark.parametrize(
    ("override", "key", "near"),
    [
        ("learning_rat=0.1", "learning_rat", "learning_rate"),
        ("scaling.num_worker=2", "scaling.num_worker", "scaling.num_workers"),
        ("lora.ranks=4", "lora.ranks", "lora.rank"),
        ("dataa.path=x", "dataa", "data"),
        ("num_workers=2", "num_workers", "scaling.num_workers"),
    ],
)
def test_an_unknown_key_is_named_with_its_nearest_neighbour(
    load: Load, override: str, key: str, near: str
) -> None:
    with pytest.raises(ConfigError, match=f"unknown key {key}; did you mean {near}\\?") as refused:
        load(override)
    assert refused.value.param == key


@pytest.mark.parametrize("alias", ["auto", "smollm2"])
def test_an_alias_that_would_mean_something_else_is_refused_before_the_run(load: Load, alias: str) -> None:
    with pytest.raises(ConfigError, match="names a base model or a route already") as refused:
        load(f"output.alias={alias}")
    assert refused.value.param == "output.alias"


def test_a_key_like_no_other_is_to_be_removed(load: Load) -> None:
    with pytest.raises(ConfigError, match="unknown key zzz; remove it"):
        load("zzz=1")


def test_every_fault_of_a_file_is_told_at_once(load: Load) -> None:
    with pytest.raises(ConfigError) as refused:
        load("epochs=0", "learning_rate=fast", "epoch=3", text="task: sft\nmodel: m\ndata: {path: a}\n")
    message = str(refused.value)
    for part in (
        "name is missing",
        "epochs: ",
        "(got 0)",
        "learning_rate: ",
        "(got 'fast')",
        "unknown key epoch",
    ):
        assert part in message
    assert "\n" not in message


def test_a_missing_file_is_named_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read .*absent\.yaml: No such file.*give the path"):
        load_config(tmp_path / "absent.yaml", [])


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("name: [", "not YAML"),
        ("just words", "must hold lines of `key: value`; it holds a single value"),
        ("", "it holds nothing"),
        ("- name: trial", "it holds a list"),
        (MINIMAL.replace("  path: rows.jsonl", "  limit: 3"), "data needs one of path, hub or fallback_path"),
        (MINIMAL.replace("sft", "ppo"), "task: .*'classification', 'sft'.*got 'ppo'"),
        (MINIMAL.replace("trial", "My Trial"), "name: .*got 'My Trial'"),
    ],
)
def test_a_file_that_is_no_config_is_refused(load: Load, text: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        load(text=text)


def test_a_file_in_another_encoding_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_bytes(MINIMAL.encode() + "# größer".encode("latin-1"))
    with pytest.raises(ConfigError, match="not UTF-8"):
        load_config(path, [])


def test_overrides_are_yaml_values_at_dotted_keys(load: Load) -> None:
    config = load(
        "epochs=1",
        "learning_rate=1e-4",
        "data.text_columns=[premise, hypothesis]",
        "scaling.use_gpu=false",
        "data.path=a=b.tsv",
        "lora.alpha=",
    )
    assert config.epochs == 1
    assert config.learning_rate == 1e-4
    assert config.data.text_columns == ("premise", "hypothesis")
    assert config.scaling.use_gpu is False
    assert config.data.path == "a=b.tsv"
    assert config.lora.alpha is None


def test_an_override_reaches_into_a_section_left_empty(load: Load) -> None:
    assert load("batch.micro_batch_size_per_gpu=2", text=MINIMAL + "batch:\n").global_batch_size == 2


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("epochs", "'epochs' is not of the form key=value"),
        ("=3", "is not of the form key=value"),
        ("epochs.first=3", "epochs is a value, not a section|unknown key|valid integer"),
        ("name.first=3", "name is a value, not a section"),
        ("data.text_columns=[a, b", r"'data.text_columns=\[a, b' is not YAML"),
        ("batch=8", "batch is a section: give its keys, as batch.KEY=value"),
        ("data.text_columns=[a, b, c]", "data.text_columns: .*at most 2"),
    ],
)
def test_an_override_that_cannot_be_applied_is_refused(load: Load, override: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        load(override)


CUT = ("batch.micro_batch_size_per_gpu=2", "batch.gradient_accumulation_steps=4", "scaling.num_workers=2")


@pytest.mark.parametrize("given", [(), ("batch.global_batch_size=16",), ("batch.global_batch_size=auto",)])
def test_the_global_batch_follows_from_its_parts_or_agrees_with_them(
    load: Load, given: tuple[str, ...]
) -> None:
    assert load(*CUT, *given).global_batch_size == 16


def test_a_global_batch_that_is_no_product_is_refused_with_every_number(load: Load) -> None:
    with pytest.raises(ConfigError, match=r"global_batch_size is 8, but .* = 2 x 4 x 2 = 16; correct"):
        load(*CUT, "batch.global_batch_size=8")


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (("scaling.min_workers=3", "scaling.num_workers=2"), "min_workers is 3, more than num_workers, 2"),
        (("task=classification", "packing=true"), "packing is for task sft"),
        (("task=classification", "neftune_noise_alpha=5"), "neftune_noise_alpha is for task sft"),
        (("method=qlora", "scaling.use_gpu=false"), "qlora needs a GPU, and scaling.use_gpu is false"),
        (("method=qlora", "scaling.zero_stage=3"), "qlora cannot run at scaling.zero_stage 3"),
        (("task=mlm", "method=lora"), "method lora does not train task mlm; write method: full"),
        (
            ("method=qlora", "task=classification"),
            "method qlora does not train task classification; write method: full or lora",
        ),
        (("scaling.offload=optimizer", "scaling.zero_stage=0"), "needs scaling.zero_stage 1 or more, not 0"),
        (("scaling.offload=all", "scaling.zero_stage=2"), "needs scaling.zero_stage 3 or more, not 2"),
        (("early_stopping_patience=0",), "early_stopping_patience"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(
    load: Load, overrides: tuple[str, ...], reason: str
) -> None:
    with pytest.raises(ConfigError, match=reason):
        load(*overrides)


def test_the_adapter_scale_is_twice_the_rank_unless_given() -> None:
    assert LoraConfig(rank=4).scale_numerator == 8
    assert LoraConfig(rank=4, alpha=4).scale_numerator == 4


def test_a_config_cannot_be_changed(load: Load) -> None:
    with pytest.raises(ValueError, match="frozen"):
        load().epochs = 2
