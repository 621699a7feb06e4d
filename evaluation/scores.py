"""One answer against its question: every measure at once."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from evaluation import metrics
from evaluation.answers import Answer
from evaluation.metrics import Failure
from evaluation.questions import ANSWERABLE, Kind, Question


@dataclass(frozen=True)
class Score:
    """What one cell's answer to one question is worth. None where a measure does not apply."""

    cell: str
    question_id: str
    kind: Kind
    is_right: bool
    failure: Failure
    abstains: bool
    fabricates: bool | None
    exact_match: float | None
    token_f1: float | None
    citation_precision: float | None
    citation_recall: float | None
    num_tokens: int
    ttft_ms: float
    total_ms: float
    variant: str = ""
    has_form: bool | None = None
    at_once: int = 1  # questions in flight, which share the machine


def score(answer: Answer, question: Question, numeric_tolerance: float, form: str | None = None) -> Score:
    """Right means: contains a right answer; abstains where there is none; cites nothing in small talk."""
    right_answers = question.right_answers
    is_answerable = question.kind in ANSWERABLE
    document = question.document_name
    is_right = _is_right(answer, question, numeric_tolerance)
    retrieves = "search" in answer.stage_ms or bool(answer.hits)
    return Score(
        cell=answer.cell,
        question_id=question.id,
        kind=question.kind,
        is_right=is_right,
        failure=(
            metrics.failure(is_right, retrieves, answer.hit_documents, document) if document else Failure.NONE
        ),
        abstains=metrics.abstains(answer.text),
        fabricates=(
            None
            if question.kind is Kind.SMALLTALK
            else not is_right and metrics.fabricates(answer.text, right_answers)
        ),
        exact_match=metrics.exact_match(answer.text, right_answers) if is_answerable else None,
        token_f1=metrics.token_f1(answer.text, right_answers) if is_answerable else None,
        citation_precision=(
            metrics.citation_precision(answer.cited, document) if document and retrieves else None
        ),
        citation_recall=metrics.citation_recall(answer.cited, document) if document and retrieves else None,
        num_tokens=answer.prompt_tokens + answer.completion_tokens,
        ttft_ms=answer.ttft_ms,
        total_ms=answer.total_ms,
        variant=answer.variant,
        has_form=metrics.has_form(answer.text, form) if form and is_answerable else None,
        at_once=answer.at_once,
    )


def _is_right(answer: Answer, question: Question, numeric_tolerance: float) -> bool:
    if question.kind is Kind.UNANSWERABLE:
        # An empty answer makes nothing up, but it does not say so either.
        return bool(answer.text) and metrics.abstains(answer.text)
    if question.kind is Kind.SMALLTALK:
        return bool(answer.text) and not answer.cited
    return metrics.contains_answer(answer.text, question.right_answers) or (
        # Without a tolerance, 27 in another unit would do; whole words are then the stricter measure.
        numeric_tolerance > 0
        and metrics.number_within(answer.text, question.right_answers, numeric_tolerance)
    )


def score_all(
    answers: Iterable[Answer],
    questions: Iterable[Question],
    numeric_tolerance: float = 0.0,
    form: str | None = None,
) -> list[Score]:
    """Every answer's score, in the order of `answers`, each of which answers one of `questions`."""
    by_id = {question.id: question for question in questions}
    return [score(answer, by_id[answer.question_id], numeric_tolerance, form) for answer in answers]
