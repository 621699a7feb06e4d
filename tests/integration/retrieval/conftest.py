"""A stand-in for a Qdrant server that speaks its REST paths over real HTTP and fails as it is told.

It keeps points in qdrant-client's in-memory mode. Like a server in strict mode, it refuses to filter on a
field without a payload index. A real server runs the contract tests when HAMLET_QDRANT_URL names one.
"""

from __future__ import annotations

import json
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from qdrant_client import QdrantClient, models

Answer = tuple[int, Any]


class FakeQdrant:
    """Asks `fault(number, method, path)` before each request, numbered from 1.

    It answers with a status to refuse, seconds (float) to wait, "hang up" to do nothing and close, "lose
    answer" to do the work and close, or None.
    """

    def __init__(self) -> None:
        self.fault: Callable[[int, str, str], int | float | str | None] = lambda number, method, path: None
        self.retry_after = "0"
        self.requests: list[tuple[str, str, int]] = []
        self.indexes: dict[str, set[str]] = {}
        self._memory = QdrantClient(":memory:")
        self._lock = threading.Lock()
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                path = self.path.split("?")[0]
                with fake._lock:
                    fake.requests.append((self.command, path, len(body)))
                    number = len(fake.requests)
                fault = fake.fault(number, self.command, path)
                if fault == "hang up":
                    self.close_connection = True
                    return
                if isinstance(fault, float):
                    time.sleep(fault)
                if isinstance(fault, int):
                    # As a server does that limits the rate, which the client tells by an error of its own.
                    retry_after = {"Retry-After": fake.retry_after} if fault == 429 else {}
                    self.reply(fault, {"status": {"error": "injected"}}, retry_after)
                    return
                with fake._lock:
                    status, result = fake.handle(self.command, path, json.loads(body or b"null"))
                if fault == "lose answer":
                    self.close_connection = True
                    return
                reply = {"result": result, "status": "ok", "time": 0.0} if status == 200 else result
                self.reply(status, reply)

            def reply(self, status: int, body: Any, headers: Mapping[str, str] | None = None) -> None:
                data = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                for name, value in (headers or {}).items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_PUT = do_POST = do_PATCH = do_DELETE = answer  # noqa: N815

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def handle(self, method: str, path: str, body: Any) -> Answer:
        parts = path.strip("/").split("/")
        if path == "/aliases":
            return 200, self._memory.get_aliases().model_dump(mode="json")
        if path == "/collections/aliases":
            for action in models.ChangeAliasesOperation(**body).actions:
                self._memory.update_collection_aliases([action])
            return 200, True
        name = parts[1]
        try:
            return self._handle_collection(method, name, "/".join(parts[2:]), body)
        except ValueError as exc:
            return (409 if "exists" in str(exc) else 404), {"status": {"error": str(exc)}}

    def _handle_collection(self, method: str, name: str, rest: str, body: Any) -> Answer:
        memory = self._memory
        match method, rest:
            case "PUT", "":
                made = models.CreateCollection(**body)
                memory.create_collection(
                    name, made.vectors, made.sparse_vectors, metadata=made.metadata, on_disk_payload=None
                )
                self.indexes[name] = set()
                return 200, True
            case "GET", "":
                aliases = {a.alias_name: a.collection_name for a in memory.get_aliases().aliases}
                indexed = self.indexes.get(aliases.get(name, name), set())
                schema = {key: {"data_type": "keyword", "points": 0} for key in indexed}
                return 200, memory.get_collection(name).model_dump(mode="json") | {"payload_schema": schema}
            case "PATCH", "":
                return 200, memory.update_collection(name, metadata=body["metadata"])
            case "DELETE", "":
                return 200, memory.delete_collection(name)
            case "PUT", "index":
                self.indexes[name].add(body["field_name"])
                return 200, {"operation_id": 1, "status": "completed"}
            case "PUT", "points":
                memory.upsert(name, models.PointsList(**body).points)
                return 200, {"operation_id": 1, "status": "completed"}
            case "POST", "points/delete":
                selector = models.FilterSelector(**body)
                if refusal := self._refusal(name, selector.filter):
                    return refusal
                memory.delete(name, selector)
                return 200, {"operation_id": 1, "status": "completed"}
            case "POST", "points/count":
                request = models.CountRequest(**body)
                if refusal := self._refusal(name, request.filter):
                    return refusal
                return 200, {"count": memory.count(name, request.filter).count}
            case "POST", "points/scroll":
                scroll = models.ScrollRequest(**body)
                if refusal := self._refusal(name, scroll.filter):
                    return refusal
                records, following = memory.scroll(
                    name,
                    scroll.filter,
                    scroll.limit or 10,
                    offset=scroll.offset,
                    with_payload=True,
                    with_vectors=scroll.with_vector or False,
                )
                dumped = [record.model_dump(mode="json") for record in records]
                return 200, {"points": dumped, "next_page_offset": following}
            case "POST", "points/query":
                query = models.QueryRequest(**body)
                if refusal := self._refusal(name, query.filter):
                    return refusal
                found = memory.query_points(
                    name,
                    query=query.query,
                    using=query.using,
                    query_filter=query.filter,
                    limit=query.limit or 10,
                    with_payload=True,
                    with_vectors=query.with_vector or False,
                )
                return 200, found.model_dump(mode="json")
        return 405, {"status": {"error": f"{method} {rest} is not played"}}

    def _refusal(self, name: str, where: models.Filter | None) -> Answer | None:
        aliases = {a.alias_name: a.collection_name for a in self._memory.get_aliases().aliases}
        indexed = self.indexes.get(aliases.get(name, name), set())
        if not self._memory.collection_exists(name):
            raise ValueError(f"Collection {name} not found")
        for key in _keys(where.model_dump() if where else {}):
            if key not in indexed:
                return 400, {"status": {"error": f"Index required but not found for {key!r}"}}
        return None


def _keys(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(node.get("key"), str):
            yield node["key"]
        for value in node.values():
            yield from _keys(value)
    elif isinstance(node, list):
        for value in node:
            yield from _keys(value)


@pytest.fixture
def qdrant() -> Iterator[FakeQdrant]:
    with warnings.catch_warnings():
        # The in-memory mode says that payload indexes do nothing, and that it is slow above 20,000 points.
        warnings.simplefilter("ignore", UserWarning)
        fake = FakeQdrant()
        yield fake
        fake.close()
