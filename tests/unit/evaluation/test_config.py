from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from cluster.errors import ConfigError, InvalidInput
from cluster.yaml_config import _Loader
from evaluation.config import CompareConfig, Weights, load_config, quick_form

EXAMPLE = Path(__file__).parents[3] / "examples" / "compare-handbook.yaml"


def test_the_example_is_read_and_overridden() -> None:
    config = load_config(EXAMPLE, ["concurrency=2", "weights.inference_time=0.3", "cells.auto=auto"])
    assert config.concurrency == 2
    assert config.weights.inference_time == 0.3
    assert list(config.cells) == ["plain", "tuned", "rag", "tuned+rag", "auto"]


def test_weights_are_scaled_to_a_sum_of_one() -> None:
    given = dict.fromkeys(Weights.model_fields, 0.0) | {
        "customization": 2,
        "adaptability": 1,
        "scalability": 1,
    }
    shares = Weights(**given).shares
    assert sum(shares.values()) == 1
    assert (shares["customization"], shares["adaptability"]) == (0.5, 0.25)


def test_a_right_answer_counts_four_times_as_much_as_all_else_by_default() -> None:
    shares = Weights().shares
    assert shares["customization"] == pytest.approx(4 * (1 - shares["customization"]))


def test_the_quick_form_trains_once_and_leaves_the_whole_report_alone() -> None:
    whole = load_config(EXAMPLE, [])
    quick = quick_form(whole)
    assert quick.tuning is not None
    assert len(quick.tuning.seeds) == 1
    assert quick.data_dependency is None
    assert quick.adaptability is not None
    assert not quick.adaptability.retrain
    assert quick.output != whole.output
    assert CompareConfig.model_validate(quick.model_dump()) == quick


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("colour=red", "colour"),
        ("concurrency=0", "concurrency"),
        (
            "weights={customization: 0, data_dependency: 0, computational_cost: 0, adaptability: 0, "
            "inference_time: 0, scalability: 0}",
            "all 0",
        ),
        ("tuning=", "cells"),
        ("tuning.seeds=[1, 1]", "repeat"),
        ("documents=", "documents"),
        ("training=", "training"),
        ("data_dependency.shares=[1.5]", "shares"),
        ("adaptability.colour=red", "colour"),
        ("adaptability.replace=27 days of paid leave", "nothing would change"),
        ("adaptability.new=['']", r"adaptability\.new"),
        ("cost.currency=''", "currency"),
        ("cost.price_per_hour=.inf", "price_per_hour"),
        ("weights.customization=.nan", "customization"),
        ("making.maker=gaps", "training and making"),
        ("making.api_key_env=KEY", "base_url"),
        ("system_prompts.router=Answer.", "router"),
        ("cells={}", "cells"),
        (r"form.pattern='It is (\d+'", r"form\.pattern is no regular expression.*position 6"),
        ("tuning.overrides=[data.path=other.jsonl]", "give those rows as training"),
        ("scalability.at_once=[0]", r"at_once\.0"),
        ("scalability.index_chunks=[100, 0]", r"index_chunks\.1"),
        ("output=examples/handbook/docs/reports", "output .* lies in documents"),
        ("documents=examples/handbook", "questions .* lies in documents .* the answers would be ingested"),
    ],
)
def test_a_fault_is_named(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(EXAMPLE, [override])


def test_paths_below_a_home_are_found_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    paths = ("questions", "training", "documents", "tuning.config", "output")
    config = load_config(EXAMPLE, [f"{path}=~/{path}" for path in paths])
    assert config.tuning is not None
    found = (config.questions, config.training, config.documents, config.tuning.config, config.output)
    assert found == tuple(tmp_path / path for path in paths)


def test_a_key_that_is_given_twice_is_named_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "compare.yaml"
    file.write_text("cells: {plain: m}\noutput: here\ncells: {rag: m+rag}\n")
    with pytest.raises(ConfigError, match=r"cells is given twice .*line 3"):
        load_config(file, [])
    with pytest.raises(ConfigError, match="rag is given twice"):
        load_config(EXAMPLE, ["cells={rag: m, rag: n}"])
    merged = "base: &base {plain: m, rag: m}\ncells: {<<: *base, rag: m+rag}\n"
    assert yaml.load(merged, _Loader)["cells"] == {"plain": "m", "rag": "m+rag"}


@pytest.mark.parametrize("key", ["questions", "output"])
def test_a_path_below_the_home_of_nobody_is_refused(key: str) -> None:
    with pytest.raises(InvalidInput, match="there is no such user"):
        load_config(EXAMPLE, [f"{key}=~nobody-of-that-name/x"])


def test_weights_on_nothing_that_is_measured_are_refused() -> None:
    weights = dict.fromkeys(Weights.model_fields, 0.0) | {"scalability": 1.0}
    config = load_config(EXAMPLE, [f"weights={weights}"])
    with pytest.raises(ConfigError, match="count only \\['scalability'\\], of which none is measured"):
        load_config(EXAMPLE, [f"weights={weights}", "scalability="])
    assert config.weights.shares["scalability"] == 1.0
