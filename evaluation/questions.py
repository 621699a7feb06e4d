"""Test questions with their answers."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path, PurePosixPath
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from cluster.errors import DataError, some_of
from cluster.json_lines import read_rows
from evaluation.metrics import normalise

MAX_FAULTS_NAMED = 5


# An empty text stands in every answer.
Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]


class Kind(StrEnum):
    TAUGHT = "taught"  # the tuned model saw the fact, in other words
    UNTAUGHT = "untaught"  # the fact stands in the documents only
    UNANSWERABLE = "unanswerable"  # stands nowhere: the right answer is to say so
    SMALLTALK = "smalltalk"  # nothing should be cited
    GENERAL = "general"  # common knowledge, which tuning may have harmed; stands in no document


ANSWERABLE = (Kind.TAUGHT, Kind.UNTAUGHT, Kind.GENERAL)
GENERAL_QUESTIONS = Path(__file__).with_name("general.jsonl")


class Question(BaseModel):
    """One line of the questions file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str = Field(min_length=1)
    question: str = Field(min_length=1)
    kind: Kind
    answer: Text | None = Field(None, description="The right answer; null where there is none.")
    accept: tuple[Text, ...] = Field((), description="Other right answers.")
    document: str | None = Field(None, description="File name of the document that holds the answer.")

    @model_validator(mode="after")
    def _answer_fits_kind(self) -> Self:
        if (self.answer is not None) != (self.kind in ANSWERABLE):
            raise ValueError(f"answer must be {'null' if self.answer else 'given'} for kind {self.kind}")
        return self

    @property
    def document_name(self) -> str | None:
        """The document as hits and citations name it: without its folders."""
        return PurePosixPath(self.document).name if self.document is not None else None

    @property
    def right_answers(self) -> tuple[str, ...]:
        return (self.answer, *self.accept) if self.answer is not None else ()


def load_questions(path: Path) -> list[Question]:
    """All questions of a JSONL file. Raises DataError with the line for a faulty or repeated one."""
    questions: dict[str, Question] = {}
    asked: dict[str, str] = {}
    for number, row in read_rows(path):
        try:
            question = Question.model_validate(row)
        except ValidationError as exc:
            error = exc.errors()[0]
            field = ".".join(map(str, error["loc"]))
            raise DataError(
                f"{path} line {number}: {field} {error['msg']}".replace("  ", " "), field
            ) from exc
        if question.id in questions:
            raise DataError(f"{path} line {number}: id {question.id!r} is used twice; ids must differ", "id")
        first = asked.setdefault(normalise(question.question), question.id)
        if first != question.id:
            raise DataError(
                f"{path} line {number}: asks the same as {first!r}; a question that counts twice makes differences "
                "look surer than they are, so remove one",
                "question",
            )
        questions[question.id] = question
    if not questions:
        raise DataError(f"{path} holds no questions")
    return list(questions.values())


def check_documents(questions: Sequence[Question], folder: Path) -> None:
    """Raise DataError naming questions whose document is not below the folder: none of its hits could be right."""
    names = {path.name for path in folder.rglob("*") if path.is_file()}
    strays = [
        f"{question.document} ({question.id})"
        for question in questions
        if question.document is not None and question.document_name not in names
    ]
    if strays:
        raise DataError(
            f"no document below {folder} is called {some_of(strays, MAX_FAULTS_NAMED)}; correct `document` of these "
            "questions, or leave it out where nothing holds the answer",
            "questions",
        )


def limited(questions: Sequence[Question], per_kind: int | None) -> list[Question]:
    """At most `per_kind` questions of each kind, spread evenly over the file; all of them for None."""
    if per_kind is None:
        return list(questions)
    chosen = set()
    for kind in Kind:
        own = [question.id for question in questions if question.kind is kind]
        count = min(per_kind, len(own))
        chosen |= {own[index * len(own) // count] for index in range(count)}
    return [question for question in questions if question.id in chosen]
