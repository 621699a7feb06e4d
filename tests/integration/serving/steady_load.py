"""Requests that come one after another while a test does something to the application."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import httpx

# In place of a status: the connection was refused or broke.
NO_ANSWER = 0


@contextmanager
def steady_load(base_url: str, model: str = "smollm2") -> Iterator[list[int]]:
    """Questions to `model` and embeddings, from two clients; their statuses."""
    statuses: list[int] = []
    over = threading.Event()

    def send(path: str, body: dict[str, object]) -> None:
        with httpx.Client(base_url=base_url, timeout=60) as http:
            while not over.is_set():
                try:
                    statuses.append(http.post(path, json=body).status_code)
                except httpx.TransportError:
                    statuses.append(NO_ANSWER)
                over.wait(0.2)

    messages = [{"role": "user", "content": "Which agency arranges our flights?"}]
    chat = {"model": model, "messages": messages, "max_tokens": 4}
    embedding = {"model": "minilm", "input": "hello"}
    clients = [
        threading.Thread(target=send, args=("/v1/chat/completions", chat)),
        threading.Thread(target=send, args=("/v1/embeddings", embedding)),
    ]
    for thread in clients:
        thread.start()
    try:
        yield statuses
    finally:
        over.set()
        for thread in clients:
            thread.join()
