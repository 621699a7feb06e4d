from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cluster.errors import DataError
from evaluation.questions import GENERAL_QUESTIONS, Kind, Question, check_leakage, limited, load_questions

ROW: dict[str, Any] = {
    "id": "a",
    "question": "How many days?",
    "answer": "27",
    "kind": "taught",
    "document": "l.md",
}
HANDBOOK = Path(__file__).parents[3] / "examples" / "handbook"


def write(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def chat(question: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": "27."}]}


def test_the_example_questions_are_read_and_none_is_in_the_training_file() -> None:
    questions = load_questions(HANDBOOK / "test.jsonl")
    assert {question.kind for question in questions} == set(Kind) - {Kind.GENERAL}
    check_leakage(questions, HANDBOOK / "train.jsonl")


def test_a_test_question_in_the_training_file_is_refused_with_its_line(tmp_path: Path) -> None:
    questions = load_questions(write(tmp_path / "test.jsonl", ROW))
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
    rows = [ROW | {"id": f"q{index}", "question": f"Question {index}?"} for index in range(12)]
    questions = load_questions(write(tmp_path / "test.jsonl", *rows))
    training = write(tmp_path / "train.jsonl", *(chat(row["question"]) for row in rows))
    with pytest.raises(DataError, match=r"line 1 .*line 5 .* and 7 more"):
        check_leakage(questions, training)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ({"kind": "unanswerable"}, "answer must be null"),
        ({"answer": None}, "answer must be given"),
        ({"kind": "riddle"}, "line 2: kind"),
        ({"id": "b", "why": 1}, "line 2: why"),
        ({}, "used twice"),
    ],
)
def test_a_faulty_question_is_named_with_its_line(
    tmp_path: Path, fault: dict[str, Any], message: str
) -> None:
    path = write(tmp_path / "test.jsonl", ROW, ROW | fault)
    with pytest.raises(DataError, match=message):
        load_questions(path)


def test_a_line_that_is_not_json_and_a_file_that_is_not_there_are_named(tmp_path: Path) -> None:
    path = tmp_path / "test.jsonl"
    with pytest.raises(DataError, match="cannot read"):
        load_questions(path)
    path.write_text("{\n")
    with pytest.raises(DataError, match="line 1 is not JSON"):
        load_questions(path)
    path.write_text("\n")
    with pytest.raises(DataError, match="no questions"):
        load_questions(path)


def test_a_limit_takes_questions_of_each_kind_spread_over_the_file() -> None:
    questions = load_questions(HANDBOOK / "test.jsonl")
    chosen = limited(questions, 3)
    assert [sum(question.kind is kind for question in chosen) for kind in Kind] == [3, 3, 3, 3, 0]
    taught = [question.id for question in questions if question.kind is Kind.TAUGHT]
    places = [taught.index(question.id) for question in chosen if question.kind is Kind.TAUGHT]
    assert max(places) > len(taught) / 2
    assert limited(questions, None) == questions
    assert limited(questions, 10_000) == questions


def test_the_general_set_holds_answers_and_no_document() -> None:
    general = load_questions(GENERAL_QUESTIONS)
    assert {question.kind for question in general} == {Kind.GENERAL}
    assert all(question.answer and question.document is None for question in general)
