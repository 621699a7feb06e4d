from __future__ import annotations

import errno
import json
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, ClassVar

import openai
import pytest

from cluster.errors import ConfigError, DataError, InvalidInput, Unavailable
from evaluation import asking
from evaluation.answers import Answer, AnswerLog, Request
from evaluation.asking import ask_all, first_model, wait_until_ready
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


def test_a_disk_that_is_full_is_told_and_what_it_held_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "answers.jsonl"
    with AnswerLog(path) as log:
        log.append(answer_to(REQUEST))

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with (
        pytest.raises(ConfigError, match=r"answers\.jsonl: No space left.*free space"),
        AnswerLog(path) as log,
    ):
        log.append(answer_to(REQUEST._replace(cell="plain")))
    with AnswerLog(path) as log:
        assert log.find(REQUEST) is not None


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"cannot write .*name a folder of yours"):
        AnswerLog(tmp_path / "file" / "answers.jsonl")


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


class Replies(BaseHTTPRequestHandler):
    """Gives each path its statuses in turn, the last for good, and writes down what was asked."""

    statuses: ClassVar[dict[str, list[int]]]
    asked: ClassVar[list[str]]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        left = self.statuses.get(self.path, [404])
        self.send_response(left.pop(0) if len(left) > 1 else left[0])
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def replying(statuses: dict[str, list[int]]) -> Iterator[tuple[ServiceConfig, list[str]]]:
    asked: list[str] = []
    handler = type("Handler", (Replies,), {"statuses": statuses, "asked": asked})
    with HTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/v1"
        yield ServiceConfig(base_url=url, ready_timeout_s=0), asked
        server.shutdown()


@contextmanager
def streaming(*answers: list[dict[str, Any]]) -> Iterator[ServiceConfig]:
    """A service that streams each of the answers in turn, the last for good, and then closes the connection."""
    left = list(answers)

    class Streams(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.end_headers()
            for choice in left.pop(0) if len(left) > 1 else left[0]:
                chunk = {"id": "1", "model": "m", "object": "chat.completion.chunk", "created": 1}
                self.wfile.write(f"data: {json.dumps(chunk | {'choices': [choice]})}\n\n".encode())

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Streams) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield ServiceConfig(base_url=f"http://127.0.0.1:{server.server_port}/v1", max_retries=1)
        server.shutdown()


BEGUN = {"index": 0, "delta": {"content": "27 "}}
WEB = {"type": "url_citation", "url_citation": {"url": "https://a"}}
ENDED = {"index": 0, "delta": {"content": "days", "annotations": [WEB]}, "finish_reason": "stop"}


def test_an_answer_that_broke_off_is_asked_again_and_no_part_of_it_is_kept(tmp_path: Path) -> None:
    with streaming([BEGUN], [BEGUN, ENDED]) as config, AnswerLog(tmp_path / "answers.jsonl") as log:
        [answer] = ask_all(config, [REQUEST], log, lambda _: None)
    assert (answer.text, answer.finish_reason, answer.cited) == ("27 days", "stop", ())


def test_a_service_that_breaks_off_every_answer_is_given_up(tmp_path: Path) -> None:
    with (
        streaming([BEGUN]) as config,
        AnswerLog(tmp_path / "answers.jsonl") as log,
        pytest.raises(
            Unavailable, match=r"breaks off its answers: .*; when it answers, run the same command again"
        ),
    ):
        ask_all(config, [REQUEST], log, lambda _: None)
    assert log.find(REQUEST) is None


@pytest.fixture
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evaluation.asking.time.sleep", lambda _: None)


@pytest.mark.parametrize(
    ("statuses", "asked"),
    [
        pytest.param({"/readyz": [200]}, ["/readyz"], id="ours"),
        pytest.param({"/v1/models": [200]}, ["/readyz", "/v1/models"], id="another-server"),
        pytest.param({"/v1/models": [401]}, ["/readyz", "/v1/models"], id="another-that-wants-a-key"),
        pytest.param({"/readyz": [503, 200]}, ["/readyz"] * 2, id="a-part-is-starting"),
        pytest.param(
            {"/readyz": [404, 503, 200]},
            ["/readyz", "/v1/models", "/readyz", "/readyz"],
            id="serve-is-loading-it",
        ),
    ],
)
@pytest.mark.usefixtures("no_pause")
def test_a_service_is_waited_for_until_it_answers_questions(
    statuses: dict[str, list[int]], asked: list[str]
) -> None:
    with replying(statuses) as (config, seen):
        wait_until_ready(config.model_copy(update={"ready_timeout_s": 30}))
    assert seen == asked


def test_a_service_that_does_not_become_ready_is_given_up_with_what_it_says() -> None:
    with (
        replying({}) as (config, _),
        pytest.raises(Unavailable, match=r"/v1 is not ready: 404.*serve deploy"),
    ):
        wait_until_ready(config)
