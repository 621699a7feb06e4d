from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cluster.errors import DataError
from evaluation.questions import (
    GENERAL_QUESTIONS,
    Kind,
    Question,
    check_documents,
    limited,
    load_questions,
)

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


def test_the_example_questions_are_read_and_name_documents_that_are_there() -> None:
    questions = load_questions(HANDBOOK / "test.jsonl")
    assert {question.kind for question in questions} == set(Kind) - {Kind.GENERAL}
    check_documents(questions, HANDBOOK / "docs")


def test_a_document_that_is_not_there_is_refused_with_its_question(tmp_path: Path) -> None:
    (tmp_path / "hr").mkdir()
    (tmp_path / "hr" / "l.md").touch()
    questions = [Question.model_validate(ROW), Question.model_validate(ROW | {"id": "b", "document": "L.md"})]
    check_documents(questions[:1], tmp_path)
    with pytest.raises(DataError, match=r"no document below .* is called L\.md \(b\); correct"):
        check_documents(questions, tmp_path)


def test_lines_may_end_as_on_windows_behind_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "test.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(ROW).encode() + b"\r\n\r\n")
    assert [question.id for question in load_questions(path)] == ["a"]


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ({"kind": "unanswerable"}, "answer must be null"),
        ({"answer": None}, "answer must be given"),
        ({"kind": "riddle"}, "line 2: kind"),
        ({"id": "b", "why": 1}, "line 2: why"),
        ({"id": "b", "question": "how many days"}, "line 2: asks the same as 'a'"),
        ({"id": "b", "accept": [""]}, r"line 2: accept\.0 String should have at least 1"),
        ({"id": "b", "answer": " "}, "line 2: answer"),
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
