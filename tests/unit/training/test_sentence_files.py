"""How a base makes vectors, read of its files. That its export is served so: tests/integration/training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cluster.errors import ConfigError
from cluster.references import resolve_model
from training.sentence_files import SentenceForm, sentence_form, write_sentence_files

KINDS = {"Transformer": "", "Pooling": "1_Pooling", "Normalize": "2_Normalize"}


def write_base(
    folder: Path,
    *,
    kinds: dict[str, str] = KINDS,
    pooling: dict[str, Any] | None = None,
    prompts: dict[str, str | None] | None = None,
) -> Path:
    (folder / "1_Pooling").mkdir(parents=True)
    modules = [{"path": path, "type": f"sentence_transformers.models.{kind}"} for kind, path in kinds.items()]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling or {}))
    (folder / "config_sentence_transformers.json").write_text(json.dumps({"prompts": prompts}))
    return folder


def test_a_model_without_such_files_is_the_mean_of_its_tokens(home: Path, tmp_path: Path) -> None:
    assert sentence_form(tmp_path) == SentenceForm()
    assert sentence_form(resolve_model("builtin:minilm")) == SentenceForm()


@pytest.mark.parametrize(
    ("pooling", "uses_first_token"),
    [
        ({}, False),
        ({"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}, False),
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, True),
        ({"pooling_mode": "cls"}, True),
        ({"pooling_mode": ["mean"], "include_prompt": True}, False),
    ],
)
def test_pooling_is_read_as_old_and_new_versions_write_it(
    tmp_path: Path, pooling: dict[str, Any], uses_first_token: bool
) -> None:
    form = sentence_form(write_base(tmp_path / "base", pooling=pooling))
    assert form.uses_first_token == uses_first_token


@pytest.mark.parametrize(
    ("pooling", "named"),
    [
        ({"pooling_mode_max_tokens": True}, "max_tokens"),
        ({"pooling_mode": "lasttoken"}, "lasttoken"),
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True}, "cls_token and mean_tokens"),
        ({"pooling_mode": ["mean", "max"]}, "mean and max"),
    ],
)
def test_pooling_that_is_not_trained_is_refused_by_name(
    tmp_path: Path, pooling: dict[str, Any], named: str
) -> None:
    with pytest.raises(ConfigError, match=f"pools by {named}; task embedding trains mean and cls") as refused:
        sentence_form(write_base(tmp_path / "base", pooling=pooling))
    assert refused.value.param == "model"


@pytest.mark.parametrize("kinds", [{**KINDS, "Dense": "3_Dense"}, {"StaticEmbedding": ""}])
def test_modules_that_are_not_trained_are_refused_by_name(tmp_path: Path, kinds: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match=f"is made of {', '.join(kinds)}; task embedding trains"):
        sentence_form(write_base(tmp_path / "base", kinds=kinds))


@pytest.mark.parametrize(
    ("prompts", "form"),
    [
        (None, SentenceForm()),
        ({"query": "q: ", "passage": "p: "}, SentenceForm(query_prompt="q: ", document_prompt="p: ")),
        ({"query": None, "document": "", "corpus": "c: "}, SentenceForm(document_prompt="c: ")),
        ({"clustering": "group: "}, SentenceForm()),
    ],
)
def test_prompts_are_found_by_the_names_they_are_served_by(
    tmp_path: Path, prompts: dict[str, str | None] | None, form: SentenceForm
) -> None:
    assert sentence_form(write_base(tmp_path / "base", prompts=prompts)) == form


def test_an_export_has_the_form_of_its_base(tmp_path: Path) -> None:
    kinds = {**KINDS, "Pooling": "4_Pooling"}
    base = write_base(tmp_path / "base", kinds=kinds, prompts={"query": "q: "})
    (base / "1_Pooling").rename(base / "4_Pooling")
    (base / "4_Pooling" / "config.json").write_text('{"pooling_mode": "cls"}')
    export = tmp_path / "export"
    export.mkdir()
    write_sentence_files(base, export, 32)
    assert (
        sentence_form(export)
        == sentence_form(base)
        == SentenceForm(uses_first_token=True, query_prompt="q: ")
    )


def test_the_export_of_a_base_without_a_form_says_that_its_vectors_are_means(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"hidden_size": 32}')
    write_sentence_files(tmp_path / "base", tmp_path, 32)
    assert sentence_form(tmp_path) == SentenceForm()
    assert json.loads((tmp_path / "sentence_bert_config.json").read_text())["max_seq_length"] == 32
