"""An answer against its question: what each kind asks for."""

from __future__ import annotations

from typing import Any

from evaluation.answers import Answer, Hit
from evaluation.metrics import Failure
from evaluation.questions import Kind, Question
from evaluation.scores import Score, score


def scored(text: str, kind: Kind = Kind.TAUGHT, document: str | None = None, **answer: Any) -> Score:
    right = None if kind in (Kind.UNANSWERABLE, Kind.SMALLTALK) else "27"
    question = Question(id="q", question="?", kind=kind, answer=right, document=document)
    given = Answer(
        cell="rag", question_id="q", request="0", model="m", text=text, ttft_ms=1, total_ms=2, **answer
    )
    return score(given, question, numeric_tolerance=0.0)


def test_an_empty_answer_neither_says_that_there_is_none_nor_makes_one_up() -> None:
    silent = scored("", Kind.UNANSWERABLE)
    assert not silent.is_right
    assert silent.fabricates is False
    assert scored("I do not know.", Kind.UNANSWERABLE).is_right


def test_a_document_in_a_folder_is_the_one_that_hits_and_citations_name() -> None:
    found: dict[str, Any] = {
        "hits": (Hit(filename="leave.md"),),
        "cited": ("leave.md",),
        "document": "hr/leave.md",
    }
    assert scored("28", **found).failure is Failure.GENERATION_ERROR
    assert scored("27", **found).citation_recall == 1.0
