from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import openai
import pytest

from cluster.errors import DataError, InvalidInput, Unavailable
from evaluation import asking
from evaluation.answers import Answer, AnswerLog, Request
from evaluation.asking import ask_all, first_model
from evaluation.compare import BLOCK_QUESTIONS, requests_of
from evaluation.config import CompareConfig, ServiceConfig
from evaluation.questions import Kind, Question

QUESTION = Question(id="a", question="How many days?", kind=Kind.TAUGHT, answer="27", document="leave.md")
REQUEST = Request("rag", "smollm2+rag", "", QUESTION, max_tokens=48, seed=0)


def answer_to(request: Request, text: str = "27") -> Answer:
    return Answer(
        cell=request.cell,
        question_id=request.question.id,
        request=request.fingerprint,
        model="m",
        text=text,
        ttft_ms=1,
        total_ms=2,
    )


def test_answers_are_there_after_the_file_is_opened_again(tmp_path: Path) -> None:
    with AnswerLog(tmp_path / "answers.jsonl") as log:
        log.append(answer_to(REQUEST))
    with AnswerLog(tmp_path / "answers.jsonl") as log:
        assert log.find(REQUEST) == answer_to(REQUEST)


def test_a_last_line_cut_short_by_a_crash_is_dropped_and_the_next_answer_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    other = REQUEST._replace(cell="plain")
    with AnswerLog(path) as log:
        log.append(answer_to(REQUEST))
    with path.open("ab") as file:
        file.write(b'{"cell": "plain", "quest')
    with AnswerLog(path) as log:
        assert log.find(other) is None
        log.append(answer_to(other))
    with AnswerLog(path) as log:
        assert log.find(REQUEST) is not None
        assert log.find(other) is not None


@pytest.mark.parametrize(
    "change",
    [
        {"model": "other"},
        {"max_tokens": 9},
        {"seed": 1},
        {"system_prompt": "x"},
        {"base_url": "http://elsewhere/v1"},
        {"documents": "another digest"},
    ],
)
def test_another_request_is_asked_anew(tmp_path: Path, change: dict[str, Any]) -> None:
    with AnswerLog(tmp_path / "answers.jsonl") as log:
        log.append(answer_to(REQUEST))
        assert log.find(REQUEST._replace(**change)) is None


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "answers.jsonl").write_text('{"a": 1}\n')
    with pytest.raises(DataError, match="not a file of answers"):
        AnswerLog(tmp_path / "answers.jsonl")


def test_a_block_of_questions_is_asked_of_one_cell_after_another(tmp_path: Path) -> None:
    config = CompareConfig(questions=tmp_path, cells={"plain": "m", "rag": "m+rag"}, output=tmp_path)
    questions = [QUESTION.model_copy(update={"id": str(number)}) for number in range(BLOCK_QUESTIONS + 1)]
    asked = [(request.cell, request.question.id) for request in requests_of(config, questions)]
    block, last = [str(number) for number in range(BLOCK_QUESTIONS)], str(BLOCK_QUESTIONS)
    first = [(cell, id_) for cell in ("plain", "rag") for id_ in block]
    assert asked == [*first, ("plain", last), ("rag", last)]


class Refusal(openai.BadRequestError):
    def __init__(self) -> None:
        self.message = "too long"


def test_a_question_that_is_refused_is_named_with_its_cell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*_: Any) -> Answer:
        raise Refusal

    monkeypatch.setattr(asking, "_ask_one", refuse)
    with (
        AnswerLog(tmp_path / "answers.jsonl") as log,
        pytest.raises(InvalidInput, match="refuses question a of cell rag: too long; change or remove it"),
    ):
        ask_all(ServiceConfig(), [REQUEST], log, lambda _: None)


def test_a_service_that_is_silent_when_asked_for_its_models_is_given_up_in_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/v1"
        with pytest.raises(Unavailable, match="does not answer"):
            first_model(ServiceConfig(base_url=url, timeout_s=0.1, max_retries=0))
