"""The handbook example is what its README promises, and its script refuses facts that spoil the answers."""

import importlib.util
import json
import re
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

HANDBOOK = Path(__file__).parents[3] / "examples" / "handbook"

spec = importlib.util.spec_from_file_location("handbook_make", HANDBOOK / "make.py")
assert spec is not None
assert spec.loader is not None
make = importlib.util.module_from_spec(spec)
spec.loader.exec_module(make)

BOOK = make.parse((HANDBOOK / "facts.yaml").read_text(encoding="utf-8"))


def rows(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (HANDBOOK / name).read_text(encoding="utf-8").splitlines()]


def questions(name: str) -> list[str]:
    return [row["messages"][0]["content"] for row in rows(name)]


def occurs(answer: str, text: str) -> bool:
    """As whole words, whatever the case: the README's rule for a right answer."""
    return re.search(rf"(?<!\w){re.escape(answer)}(?!\w)", text, re.IGNORECASE) is not None


def with_first_fact(**changes: Any) -> Any:
    """The handbook whose first fact, leave-annual-days, is changed."""
    page = BOOK.documents[0]
    facts = [replace(page.facts[0], **changes), *page.facts[1:]]
    return replace(BOOK, documents=[replace(page, facts=facts), *BOOK.documents[1:]])


def test_the_files_on_disk_are_what_the_facts_make() -> None:
    assert make.stale(make.generate(BOOK), HANDBOOK) == []


def test_each_file_has_as_many_rows_as_the_readme_says() -> None:
    assert len(rows("train.jsonl")) == 128
    assert len(rows("validation.jsonl")) == 32
    assert Counter(row["label"] for row in rows("routes.jsonl")) == {"rag": 128, "plain": 96}
    assert Counter(row["label"] for row in rows("routes-validation.jsonl")) == {"rag": 32, "plain": 24}
    assert Counter(row["kind"] for row in rows("test.jsonl")) == {
        "taught": 64,
        "untaught": 32,
        "unanswerable": 12,
        "smalltalk": 12,
    }


def test_no_test_question_is_trained_or_validated_on() -> None:
    seen = {make.words(question) for question in questions("train.jsonl") + questions("validation.jsonl")}
    assert len(seen) == 128 + 32
    assert not [row for row in rows("test.jsonl") if make.words(row["question"]) in seen]


def test_no_plain_question_of_an_evaluation_is_in_the_training_of_routes() -> None:
    general = (HANDBOOK.parents[1] / "evaluation" / "general.jsonl").read_text(encoding="utf-8").splitlines()
    tested = [json.loads(line)["question"] for line in general] + list(BOOK.smalltalk)
    trained = [row["text"] for name in ("routes", "routes-validation") for row in rows(f"{name}.jsonl")]
    assert [(a, b) for a in tested for b in trained if make.overlap(a, b) >= make.MAX_OVERLAP] == []


def test_no_untaught_answer_is_trained_on() -> None:
    replies = "\n".join(row["messages"][1]["content"] for row in rows("train.jsonl"))
    untaught = {row["answer"] for row in rows("test.jsonl") if row["kind"] == "untaught"}
    assert not [answer for answer in untaught if occurs(answer, replies)]


def test_every_answer_stands_in_its_document_and_in_no_other() -> None:
    pages = {path.name: path.read_text(encoding="utf-8") for path in (HANDBOOK / "docs").iterdir()}
    for row in rows("test.jsonl"):
        if row["answer"] is not None:
            found = [name for name, page in pages.items() if occurs(row["answer"], page)]
            assert found == [row["document"]], row["id"]


def test_no_question_gives_its_answer_away() -> None:
    for fact in BOOK.facts:
        for question in (*fact.ask, fact.validation, *fact.test):
            assert not [a for a in (fact.answer, *fact.accept) if occurs(a, question)], question


def test_every_document_has_a_taught_and_an_untaught_fact_and_a_readable_length() -> None:
    for document in BOOK.documents:
        assert {fact.taught for fact in document.facts} == {True, False}, document.file
        assert 250 <= len(make.render_document(document, BOOK.company).split()) <= 450, document.file


def test_questions_and_replies_are_short_enough_for_a_small_model() -> None:
    for fact in BOOK.facts:
        assert all(len(question.split()) < 20 for question in (*fact.ask, fact.validation, *fact.test)), (
            fact.id
        )
        assert len(fact.reply.split()) < 25, fact.id


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"answer": "99 days"}, "leave-annual-days: the answer '99 days' is not in the statement."),
        ({"reply": "Plenty."}, "leave-annual-days: the answer '27 days' is not in the reply."),
        ({"answer": 27}, "leave-annual-days: answer and accept must be text"),
        ({"ask": ["How much leave?"]}, "leave-annual-days: needs 4 wordings under ask"),
        ({"id": "leave-approver"}, "leave-approver: this id is used 2 times."),
        ({"id": "leave-days"}, "leave.md: a section names the fact 'leave-annual-days'"),
        ({"statement": "27 days, answer MV-83.", "answer": "MV-83"}, "MV-83: this answer is used 2 times."),
        ({"taught": False}, "facts.yaml: there are 31 taught facts instead of 32."),
        (
            {"validation": "how many days of paid leave do employees get each year"},
            "leave-annual-days: 'how many days of paid leave do employees get each year' repeats",
        ),
        (
            {"test": ["How many days of paid leave do we get each year?", "And how many in all?"]},
            "leave-annual-days: the test question 'How many days of paid leave do we get each year?' nearly",
        ),
    ],
)
def test_a_planted_fault_is_refused_with_a_sentence_that_names_it(
    changes: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(make.FactsError, match=re.escape(sentence)):
        make.generate(with_first_fact(**changes))


def test_a_statement_left_out_of_its_document_is_refused() -> None:
    page = BOOK.documents[0]
    book = replace(BOOK, documents=[replace(page, sections=page.sections[1:]), *BOOK.documents[1:]])
    with pytest.raises(make.FactsError, match=r"leave-annual-days: the statement is not in leave\.md"):
        make.generate(book)


def test_check_names_the_files_that_are_stale_and_writing_mends_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(HANDBOOK / "facts.yaml", tmp_path)
    assert make.main([], tmp_path) == 0
    assert make.main(["--check"], tmp_path) == 0
    (tmp_path / "train.jsonl").write_text("{}\n")
    (tmp_path / "docs" / "leave.md").unlink()
    assert make.main(["--check"], tmp_path) == 1
    assert "docs/leave.md, train.jsonl" in capsys.readouterr().err
    assert make.main([], tmp_path) == 0
    assert make.main(["--check"], tmp_path) == 0
