from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from evaluation.answers import Answer
from evaluation.config import CompareConfig
from evaluation.questions import Kind, Question
from evaluation.results import Measured, collect
from evaluation.routes import route_rows

CELLS = {"plain": "m", "tuned": "ft:m", "rag": "m+rag", "tuned+rag": "ft:m+rag"}
SEEDS = {"tuned": ("seed 1", "seed 2"), "tuned+rag": ("seed 1", "seed 2")}
RIGHT, WRONG = "It is 27.", "It is 5."


@pytest.mark.parametrize(
    ("right", "label"),
    [
        ({"plain": 1, "tuned": 2, "rag": 1, "tuned+rag": 2}, "plain"),  # of equal ones the cheapest
        ({"tuned": 2, "rag": 1, "tuned+rag": 2}, "tuned"),
        ({"tuned": 1, "rag": 1, "tuned+rag": 2}, "rag"),  # a tuned model that is right with one seed of two
        ({"tuned": 1, "tuned+rag": 2}, "tuned+rag"),
        ({"tuned": 1}, "tuned"),
        ({}, None),  # no route answers it
    ],
)
def test_a_question_has_the_cheapest_of_its_best_routes(
    tmp_path: Path, right: dict[str, int], label: str | None
) -> None:
    question = Question(id="q", question="How many days?", kind=Kind.TAUGHT, answer="27", document="leave.md")
    answers = [
        Answer(
            cell=cell,
            question_id="q",
            variant=variant,
            request="0",
            model=f"{cell} {variant}",
            route=cell,
            text=RIGHT if number < right.get(cell, 0) else WRONG,
            ttft_ms=1,
            total_ms=1,
        )
        for cell in CELLS
        for number, variant in enumerate(SEEDS.get(cell, ("",)))
    ]
    config = CompareConfig(name="t", questions=tmp_path, cells=CELLS, output=tmp_path, num_resamples=200)
    results = collect(config, Measured([question], answers), datetime(2026, 1, 2, tzinfo=UTC))
    rows = list(route_rows(results.lines))
    assert rows == ([{"text": "How many days?", "label": label}] if label else [])
