"""ModelCards and their names."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import ValidationError

from cluster.cards import ModelCard, folder_sha256, new_model_id, slug

MakeCard = Callable[..., ModelCard]


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ("builtin:smollm2", "smollm2"),
        ("HuggingFaceTB/SmolLM2-135M", "smollm2-135m"),
        ("/models/My Model/", "my-model"),
        ("Qwen/Qwen2.5_0.5B", "qwen2.5-0.5b"),
        ("///", "model"),
        ("模型", "model"),
    ],
)
def test_a_reference_becomes_one_name_part(reference: str, expected: str) -> None:
    assert slug(reference) == expected


def test_ids_have_openais_form_and_never_repeat() -> None:
    ids = {new_model_id("builtin:minilm", "hamlet", "mrpc") for _ in range(100)}
    assert len(ids) == 100
    assert all(re.fullmatch(r"ft:minilm:hamlet:mrpc:[0-9a-f]{8}", model_id) for model_id in ids)


def test_a_card_survives_json(make_card: MakeCard) -> None:
    card = make_card(labels=("no", "yes"), metrics={"f1": 0.85})
    assert ModelCard.model_validate_json(card.model_dump_json()) == card


def test_an_unknown_field_is_refused(make_card: MakeCard) -> None:
    with pytest.raises(ValidationError, match="colour"):
        make_card(colour="red")


def test_every_file_of_a_folder_is_hashed_under_its_relative_path(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b.txt").write_bytes(b"one")
    (tmp_path / "c.txt").write_bytes(b"two")
    assert folder_sha256(tmp_path) == {
        "a/b.txt": hashlib.sha256(b"one").hexdigest(),
        "c.txt": hashlib.sha256(b"two").hexdigest(),
    }
