"""A sequence-pair classifier as reranker: a small one with random weights, saved as training saves them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from cluster.references import resolve_model
from retrieval.rerank import CrossEncoder


@pytest.fixture(scope="module", params=[1, 2])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch
    from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HAMLET_HOME", str(Path("~/.hamlet").expanduser()))
        tokenizer = AutoTokenizer.from_pretrained(resolve_model("builtin:minilm"))
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
        num_labels=request.param,
        initializer_range=0.5,
    )
    folder = tmp_path_factory.mktemp("pair")
    BertForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_scores_are_probabilities_and_do_not_depend_on_company(folder: Path) -> None:
    reranker = CrossEncoder(str(folder))
    texts = ["short", "a much longer passage " * 30, "something else"]
    together = reranker.score("which one?", texts)
    alone = np.concatenate([reranker.score("which one?", [text]) for text in texts])
    assert together.shape == (3,)
    assert ((together > 0) & (together < 1)).all()
    assert together == pytest.approx(alone, abs=1e-4)
    assert len(set(together.round(4))) == 3


def test_the_positive_class_is_known_by_its_name_wherever_it_stands(folder: Path, tmp_path: Path) -> None:
    named = tmp_path / "named"
    shutil.copytree(folder, named)
    config = json.loads((folder / "config.json").read_text())
    is_one = "id2label" in config  # two are what a config has that names none
    labels = ["match"] if is_one else ["match", "no_match"]
    config |= {"id2label": dict(enumerate(labels)), "label2id": {label: n for n, label in enumerate(labels)}}
    (named / "config.json").write_text(json.dumps(config))
    last, first = (CrossEncoder(str(each)).score("which one?", ["short"]) for each in (folder, named))
    assert first == pytest.approx(last if is_one else 1 - last, abs=1e-5)


def test_a_question_longer_than_the_limit_leaves_room_for_the_passages(folder: Path) -> None:
    scores = CrossEncoder(str(folder)).score("which one of them? " * 30, ["short", "something else"])
    assert len(set(scores.round(4))) == 2
