"""Training questions from documents: the split, the file, what is refused, and whose key goes where."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from cluster.errors import ConfigError, DataError
from evaluation import making
from evaluation.answers import Answer, AnswerLog, Request
from evaluation.config import CompareConfig, Maker, MakingConfig, ServiceConfig
from evaluation.making import (
    Made,
    held_out_documents,
    make_questions,
    require_enough,
    sorted_by_split,
    with_made_training,
)
from evaluation.pairs import Fault, Passage
from evaluation.questions import Kind, Question

PASSAGES = [
    Passage(f"{name}.md", name, f"The {name} desk is in room {number}. Please knock.")
    for number, name in enumerate(["leave", "travel", "safety", "support"], start=310)
]
GAPS = MakingConfig(maker=Maker.GAPS, min_pairs=2)


class Counting:
    """A watcher that counts what was asked."""

    def __init__(self) -> None:
        self.num_answers = 0

    def stage(self, name: str, num_answers: int = 0) -> None: ...

    def answered(self, answer: Answer) -> None:
        self.num_answers += 1


def made_by(
    config: MakingConfig, out: Path, seed: int = 0, tests: Sequence[str] = (), passages: Any = PASSAGES
) -> Made:
    return make_questions(config, ServiceConfig(), passages, tests, seed, out, Counting())


def rows_of(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]


def test_no_question_is_made_from_a_held_out_document(tmp_path: Path) -> None:
    out = tmp_path / "chat.jsonl"
    made = made_by(GAPS, out)
    assert len(made.held_out) == 1, "a quarter of four"
    assert {row["source"] for row in rows_of(out)} == set(made.documents)
    assert not set(made.documents) & set(made.held_out)
    assert held_out_documents([passage.document for passage in PASSAGES], 0) == set()


def test_a_test_question_is_untaught_where_its_document_is_held_out() -> None:
    def question(id_: str, kind: Kind, document: str | None) -> Question:
        answer = None if kind is Kind.UNANSWERABLE else "27"
        return Question(id=id_, question="How many?", kind=kind, answer=answer, document=document)

    questions = [
        question("a", Kind.TAUGHT, "docs/leave.md"),
        question("b", Kind.UNTAUGHT, "travel.md"),
        question("c", Kind.UNTAUGHT, None),
        question("d", Kind.UNANSWERABLE, "leave.md"),
    ]
    kinds = [question.kind for question in sorted_by_split(questions, {"leave.md"})]
    assert kinds == [Kind.UNTAUGHT, Kind.TAUGHT, Kind.UNTAUGHT, Kind.UNANSWERABLE]


def test_the_same_seed_gives_the_same_file_and_another_one_another_order(tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("first", "again", "other")]
    for file, seed in zip(files, (1, 1, 2), strict=True):
        made_by(GAPS.model_copy(update={"held_out": 0.0}), file, seed)
    first, again, other = [file.read_text() for file in files]
    assert first == again
    assert first != other
    assert sorted(first.splitlines()) == sorted(other.splitlines())


def scripted(replies: dict[str, str]) -> Callable[..., list[Answer]]:
    """In place of the service: a reply by what the passage is about, once for each request, as the log has it."""

    def ask_all(
        _: ServiceConfig, requests: Sequence[Request], log: AnswerLog, on_answer: Callable[[Answer], None]
    ) -> list[Answer]:
        answers = []
        for request in requests:
            answer = log.find(request)
            if answer is None:
                name = next(name for name in replies if f"The {name} desk" in request.question.question)
                answer = Answer(
                    cell=request.cell,
                    question_id=request.question.id,
                    request=request.fingerprint,
                    model=request.model,
                    text=replies[name],
                    ttft_ms=1,
                    total_ms=1,
                )
                log.append(answer)
                on_answer(answer)
            answers.append(answer)
        return answers

    return ask_all


REPLIES = {
    "leave": "Question: In which room is the leave desk?\nAnswer: room 310",
    "travel": "Question: In which room is the travel desk?\nAnswer: room 999",
    "safety": "Question: In which room is the leave desk?\nAnswer: room 312",
    "support": "I'm ready to help. What's your next question?",
}


def test_a_models_pairs_are_sifted_and_counted_and_no_passage_is_asked_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(making, "ask_all", scripted(REPLIES))
    config = MakingConfig(model="teacher", held_out=0, min_pairs=2)
    watcher = Counting()
    for _ in range(2):
        made = make_questions(config, ServiceConfig(), PASSAGES, (), 0, tmp_path / "chat.jsonl", watcher)
    assert watcher.num_answers == len(PASSAGES)
    assert (made.maker, made.num_made, made.num_kept, made.num_passages_used) == ("teacher", 3, 1, 1)
    assert made.dropped == {Fault.NOT_IN_PASSAGE: 1, Fault.DUPLICATE: 1}
    [row] = rows_of(tmp_path / "chat.jsonl")
    assert [turn["content"] for turn in row["messages"]] == ["In which room is the leave desk?", "room 310"]
    with pytest.raises(DataError, match=r"made 3 pairs .* 1 are kept.* fewer than min_pairs \(2\).*gaps"):
        require_enough(made, config.min_pairs, tmp_path / "chat.jsonl")


def test_a_comparison_trains_on_the_made_rows_and_is_told_which_questions_they_teach(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(making, "passages_of", lambda _: PASSAGES)
    config = CompareConfig.model_validate(
        {
            "questions": tmp_path / "test.jsonl",
            "documents": tmp_path / "docs",
            "collection": "handbook",
            "cells": {"tuned": "{tuned}"},
            "tuning": {"config": tmp_path / "tune.yaml", "overrides": ["epochs=2"]},
            "making": GAPS.model_dump(),
            "output": tmp_path / "out",
        }
    )
    questions = [
        Question(id=p.document, question="Where?", kind=Kind.TAUGHT, answer="310", document=p.document)
        for p in PASSAGES
    ]
    changed, sorted_questions, made = with_made_training(config, questions, Counting())
    assert changed.training is not None
    assert len(rows_of(changed.training)) == made.num_kept == 3
    assert {q.document for q in sorted_questions if q.kind is Kind.UNTAUGHT} == set(made.held_out)


def test_a_fact_in_quotes_is_found_in_the_made_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    passage = Passage("leave.md", "leave", 'The desk is in room "310" of the house. Please knock.')
    monkeypatch.setattr(making, "passages_of", lambda _: [passage])
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "leave.md").write_text(passage.text)
    change = {"document": "leave.md", "question": "Where?", "old": ["310"], "new": ["311"]}
    config = CompareConfig.model_validate(
        {
            "questions": tmp_path / "test.jsonl",
            "documents": tmp_path / "docs",
            "collection": "handbook",
            "cells": {"tuned": "{tuned}"},
            "tuning": {"config": tmp_path / "tune.yaml"},
            "making": {"maker": "gaps", "min_pairs": 1, "held_out": 0},
            "adaptability": change | {"find": 'room "310"', "replace": 'room "311"'},
            "output": tmp_path / "out",
        }
    )
    changed, _, made = with_made_training(config, [], Counting())
    assert changed.training is not None
    assert made.num_kept == 1
    missing = config.adaptability.model_copy(update={"find": "of the house. Please"})  # in no sentence
    with pytest.raises(DataError, match="re-training cannot teach its change"):
        with_made_training(config.model_copy(update={"adaptability": missing}), [], Counting())


def test_documents_that_leave_nothing_to_ask_about_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no passage is left"):
        made_by(GAPS, tmp_path / "chat.jsonl", passages=PASSAGES[:1])


def test_a_teacher_elsewhere_gets_its_own_key_and_never_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = MakingConfig(base_url="https://teacher/v1")
    named = MakingConfig(base_url="https://teacher/v1", api_key_env="TEACHER_API_KEY")
    monkeypatch.delenv("TEACHER_API_KEY", raising=False)
    assert MakingConfig().service(ServiceConfig()).api_key_env == "OPENAI_API_KEY"
    assert elsewhere.service(ServiceConfig()).api_key_env == ""
    with pytest.raises(ConfigError, match="TEACHER_API_KEY is not set"):
        named.service(ServiceConfig())
    monkeypatch.setenv("TEACHER_API_KEY", "key")
    assert named.service(ServiceConfig()).api_key_env == "TEACHER_API_KEY"
