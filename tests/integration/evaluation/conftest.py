"""A service that speaks the HTTP surface of ours, with answers that the test chooses."""

from __future__ import annotations

import json
import threading
from collections import deque
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from cluster.settings import settings


class FakeService:
    """Answers from `texts` by question; `refusals` come first, one for each request, as (status, headers)."""

    def __init__(self) -> None:
        self.texts: dict[str, str] = {}
        self.answer: Callable[[dict[str, Any]], str] | None = None  # from a request, in place of `texts`
        self.refusals: deque[tuple[int, dict[str, str]]] = deque()
        self.num_served_before_failing: int | None = None
        self.asked: list[tuple[str, str]] = []  # (model, question), answered ones only
        self.find: Callable[[str, str], list[str]] = lambda _store, _query: []  # passages, the best first
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()
        self.base_url = f"http://127.0.0.1:{self._server.server_port}/v1"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def refusal(self, body: dict[str, Any]) -> tuple[int, dict[str, str]] | None:
        """What to refuse this request with; None to answer it."""
        with self._lock:
            if body["model"] == "unknown":
                return 404, {}
            if self.refusals:
                return self.refusals.popleft()
            if (
                self.num_served_before_failing is not None
                and len(self.asked) >= self.num_served_before_failing
            ):
                return 503, {}
            self.asked.append((body["model"], body["messages"][-1]["content"]))
            return None

    def chunks(self, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """The stream of one answer: two pieces of text, then citations and extension, then the usage."""
        question = body["messages"][-1]["content"]
        text = self.answer(body) if self.answer else self.texts.get(question, "I do not know.")
        yield self._chunk(body, {"role": "assistant", "content": text[:3]})
        yield self._chunk(body, {"content": text[3:]})
        if body["model"].endswith("+rag"):
            note = {"type": "file_citation", "index": 1, "file_citation": {"filename": "leave.md"}}
            hit = {"index": 1, "filename": "leave.md", "score": 0.7, "text": "27 days"}
            route = "tuned+rag" if body["model"].startswith("ft:") else "rag"
            extension = {"route": route, "hits": [hit], "stage_ms": {"search": 1.5, "generate": 20.0}}
            last = self._chunk(body, {"annotations": [note]}, "stop")
            yield last | {"hamlet": extension}
        else:
            route = "tuned" if body["model"].startswith("ft:") else "plain"
            yield self._chunk(body, {}, "stop") | {"hamlet": {"route": route, "hits": [], "stage_ms": {}}}
        usage = {"prompt_tokens": 20, "completion_tokens": 4, "total_tokens": 24}
        yield self._chunk(body, None) | {"usage": usage}

    def _chunk(
        self, body: dict[str, Any], delta: dict[str, Any] | None, finish_reason: str | None = None
    ) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
        return {
            "id": "chatcmpl-1",
            "object": "chat.completion.chunk",
            "created": 0,
            "model": body["model"],
            "choices": [] if delta is None else [choice],
        }

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if self.path.endswith("/search"):
                    self._send_hits(service.find(self.path.split("/")[-2], body["query"]))
                    return
                refusal = service.refusal(body)
                if refusal is not None:
                    self._send(refusal[0], refusal[1], [{"error": {"message": "refused", "type": "x"}}], "{}")
                else:
                    self._send(
                        200, {"Content-Type": "text/event-stream"}, service.chunks(body), "data: {}\n\n"
                    )

            def _send_hits(self, texts: list[str]) -> None:
                hits = [
                    {
                        "file_id": "f",
                        "filename": "leave.md",
                        "score": 0.7,
                        "attributes": {},
                        "content": [{"type": "text", "text": text}],
                    }
                    for text in texts
                ]
                page = {"object": "vector_store.search_results.page", "search_query": [], "data": hits}
                content = json.dumps(page | {"has_more": False, "next_page": None}).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def _send(self, status: int, headers: dict[str, str], parts: Any, form: str) -> None:
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                for part in parts:
                    self.wfile.write(form.replace("{}", json.dumps(part)).encode())
                if status == 200:
                    self.wfile.write(b"data: [DONE]\n\n")

            def log_message(self, *_: object) -> None:
                """Nothing: the tests look at `asked`."""

        return Handler


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A state of its own: reports, registry and keys."""
    monkeypatch.setenv("HAMLET_HOME", str(tmp_path / "home"))
    settings.cache_clear()


@pytest.fixture
def service() -> Iterator[FakeService]:
    fake = FakeService()
    yield fake
    fake.close()


@pytest.fixture
def questions_file(tmp_path: Path) -> Path:
    rows: list[dict[str, Any]] = [
        {
            "id": f"q{n}",
            "question": f"Question {n}?",
            "answer": str(n),
            "kind": "taught",
            "document": "leave.md",
        }
        for n in range(10, 16)
    ]
    rows.append({"id": "u", "question": "Unanswerable?", "answer": None, "kind": "unanswerable"})
    path = tmp_path / "questions.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
