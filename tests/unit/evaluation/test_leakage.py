"""Test questions in training rows: which are found, in every form of a row, and which are none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cluster.errors import DataError
from evaluation.leakage import check_leakage
from evaluation.questions import Kind, Question, load_questions

HANDBOOK = Path(__file__).parents[3] / "examples" / "handbook"
ASKED = "How many days of paid leave does everybody get each year?"
LEAVE = Question(id="leave", question=ASKED, kind=Kind.UNTAUGHT, answer="27 days")


def write(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def chat(question: str, reply: str = "27.") -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": reply}]}


def test_none_of_the_examples_questions_is_in_its_training_file() -> None:
    check_leakage(load_questions(HANDBOOK / "test.jsonl"), HANDBOOK / "train.jsonl")


def test_a_test_question_in_the_training_file_is_refused_with_its_line(tmp_path: Path) -> None:
    questions = [Question(id="a", question="How many days?", kind=Kind.TAUGHT, answer="27")]
    training = write(tmp_path / "train.jsonl", chat("When is lunch?"), chat("how many  days"), chat("Why?"))
    with pytest.raises(DataError, match=r"line 2 \(a\);"):
        check_leakage(questions, training)


@pytest.mark.parametrize("form", ["parts", "preference"])
def test_a_test_question_is_found_in_every_form_of_a_training_row(form: str, tmp_path: Path) -> None:
    asked = "How many days of leave?"
    content = [{"type": "text", "text": asked}] if form == "parts" else asked
    conversation = {"messages": [{"role": "user", "content": content}]}
    row = conversation if form == "parts" else {"input": conversation}
    question = Question(id="leave-1", question=asked, kind=Kind.TAUGHT, answer="27")
    with pytest.raises(DataError, match=r"line 1 \(leave-1\)"):
        check_leakage([question], write(tmp_path / "train.jsonl", row))


def test_a_training_set_equal_to_the_test_set_names_some_lines_and_counts_the_rest(tmp_path: Path) -> None:
    questions = [
        Question(id=f"q{index}", question=f"Question {index}?", kind=Kind.TAUGHT, answer="27")
        for index in range(12)
    ]
    training = write(tmp_path / "train.jsonl", *(chat(question.question) for question in questions))
    with pytest.raises(DataError, match=r"line 1 .*line 5 .* and 7 more"):
        check_leakage(questions, training)


@pytest.mark.parametrize(
    "row",
    [
        chat(f"Everybody gets 27 days.\n\nQuestion: {ASKED}"),
        chat(f"Hello! {ASKED} Please be short."),
        chat(ASKED.upper().replace("?", "？")),
        chat("How many days of paid leave does everybody get every year?", "They get 27 days."),
        chat("Each year, how many days of paid leave does everybody get?", "27 days"),
        {"prompt": "How many days of leave does everybody get each year?", "completion": "It is 27 days."},
    ],
)
def test_a_question_below_a_text_or_with_another_word_is_found(row: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"line 1 \(leave\)"):
        check_leakage([LEAVE], write(tmp_path / "train.jsonl", row))


@pytest.mark.parametrize(
    "row",
    [
        chat("How many hours of paid leave does everybody get each year?", "31 hours"),
        chat("What amount of vacation may I take in twelve months?", "27 days"),
        chat("How are you? Well, thanks."),
        chat("Why?") | {"preferred_output": 5},  # which training refuses, with the line
    ],
)
def test_another_question_is_no_leak(row: dict[str, Any], tmp_path: Path) -> None:
    greeting = Question(id="hello", question="How are you?", kind=Kind.SMALLTALK)
    check_leakage([LEAVE, greeting], write(tmp_path / "train.jsonl", row))
