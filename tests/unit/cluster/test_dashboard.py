"""Asking Ray's HTTP API, against a small server that answers what it is told."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from cluster.dashboard import TokenRefused, get, has_living_node, ray_version
from cluster.errors import Unavailable


class Answering(HTTPServer):
    """Gives `status` and `body` to every GET and keeps the headers it was sent."""

    status = 200
    body = b"{}"
    asked: dict[str, str]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Answering

    def do_GET(self) -> None:
        self.server.asked = dict(self.headers)
        self.send_response(self.server.status)
        self.send_header("Content-Length", str(len(self.server.body)))
        self.end_headers()
        self.wfile.write(self.server.body)

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Answering]:
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    (tmp_path / "token").write_text("sesame")
    with Answering(("127.0.0.1", 0), Handler) as answering:
        thread = threading.Thread(target=answering.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield answering
        answering.shutdown()
        thread.join()


def test_the_token_is_sent(server: Answering) -> None:
    get(server.url, "/api/version")
    assert server.asked["Authorization"] == "Bearer sesame"


def test_a_proxy_of_the_users_is_not_asked_for_the_loopback_address(
    server: Answering, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    assert get(server.url, "/api/version") == {}


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_token_is_told_apart(server: Answering, status: int) -> None:
    server.status = status
    with pytest.raises(TokenRefused, match="refuses the token"):
        get(server.url, "/api/version")


@pytest.mark.parametrize(
    ("status", "body"), [(404, b""), (200, b"<html>"), (200, b'{"hello": 1}'), (200, b"[]")]
)
def test_another_service_on_the_port_is_no_ray(server: Answering, status: int, body: bytes) -> None:
    server.status, server.body = status, body
    with pytest.raises(Unavailable, match="not a Ray dashboard"):
        ray_version(server.url)


def test_nothing_on_the_port_names_the_remedy() -> None:
    with pytest.raises(Unavailable, match="python -m cluster up"):
        ray_version("http://127.0.0.1:1")


def test_the_version_is_read(server: Answering) -> None:
    server.body = b'{"version": "4", "ray_version": "2.60.0", "ray_commit": "x"}'
    assert ray_version(server.url) == "2.60.0"


@pytest.mark.parametrize(("states", "expected"), [([], False), (["DEAD"], False), (["DEAD", "ALIVE"], True)])
def test_a_node_must_be_alive_for_jobs_to_run(server: Answering, states: list[str], expected: bool) -> None:
    nodes = [{"state": state} for state in states]
    server.body = json.dumps({"data": {"result": {"result": nodes}}}).encode()
    assert has_living_node(server.url) is expected


@pytest.mark.parametrize("url", ["http://10.0.0.1:port", "http://[bad"])
def test_a_url_that_is_none_is_answered_by_nobody(url: str) -> None:
    with pytest.raises(Unavailable, match="nothing answers at"):
        get(url, "/api/version")
