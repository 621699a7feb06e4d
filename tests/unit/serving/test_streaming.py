"""How a stream reaches the wire, and what happens when nobody reads it any more."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from contextlib import ExitStack
from typing import Any

import pytest
from starlette.testclient import TestClient

from cluster.errors import Overloaded
from serving import sse
from serving.admission import Admission
from serving.api import create_app
from serving.authentication import ANONYMOUS, Gate
from serving.backends import Embedded
from serving.catalogue import Snapshot
from serving.config import FineTuningConfig, LimitsConfig, RouterConfig, ServingConfig
from serving.generator import TOLD_EVERY_TOKENS
from serving.limits import Limits
from serving.platform import Platform
from serving.scripted_engine import ScriptedEngine
from serving.scripted_parts import ScriptedApplication, ScriptedEmbedder, ScriptedRetriever, scripted_passage

DEADLINE_S = 5.0


class Connection:
    """One HTTP request to an ASGI application, whose client can leave."""

    def __init__(self, app: Any, body: dict[str, Any], path: str = "/v1/chat/completions") -> None:
        self._app = app
        self._path = path
        self._incoming: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._incoming.put_nowait({"type": "http.request", "body": json.dumps(body).encode()})
        self.sent: list[tuple[float, dict[str, Any]]] = []

    def leave(self) -> None:
        self._incoming.put_nowait({"type": "http.disconnect"})

    async def run(self) -> None:
        scope = {
            "type": "http",
            "method": "POST",
            "path": self._path,
            "raw_path": self._path.encode(),
            "query_string": b"",
            "headers": [(b"content-type", b"application/json")],
        }
        await self._app(scope, self._incoming.get, self._send)

    async def _send(self, message: Any) -> None:
        self.sent.append((time.perf_counter(), message))

    @property
    def bodies(self) -> list[bytes]:
        return [message["body"] for _, message in self.sent if message.get("body")]

    @property
    def status(self) -> int:
        return int(self.sent[0][1]["status"])


class Stalled(Connection):
    """Its client takes some messages of the answer, and no more."""

    def __init__(self, app: Any, body: dict[str, Any], num_taken: int) -> None:
        super().__init__(app, body)
        self._num_taken = num_taken
        self.is_stalled = False

    async def _send(self, message: Any) -> None:
        if len(self.sent) == self._num_taken:
            self.is_stalled = True
            await asyncio.Event().wait()
        await super()._send(message)


async def until(condition: Callable[[], bool]) -> None:
    deadline = time.perf_counter() + DEADLINE_S
    while not condition():
        assert time.perf_counter() < deadline, "waited in vain"
        await asyncio.sleep(0.005)


def run(main: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(main, DEADLINE_S * 2))


CHAT, TEXT = "/v1/chat/completions", "/v1/completions"


def body(stream: bool, path: str = CHAT) -> dict[str, Any]:
    asked = {"messages": [{"role": "user", "content": "Hi"}]} if path == CHAT else {"prompt": "Hi"}
    return {"model": "smollm2", "stream": stream, **asked}


def test_tokens_are_sent_as_they_are_generated(world: ScriptedApplication) -> None:
    world.engine = ScriptedEngine(script=[f"t{i} " for i in range(20)], step_s=0.02)

    async def main() -> None:
        connection = Connection(world.app, body(stream=True))
        started = time.perf_counter()
        await connection.run()
        times = [at - started for at, message in connection.sent if b"t" in message.get("body", b"")]
        assert len(connection.bodies) >= 20
        assert times[0] < times[-1] / 2, "the first did not wait for the last"

    run(main())


@pytest.mark.parametrize("path", [CHAT, TEXT])
@pytest.mark.parametrize("stream", [True, False])
def test_generation_ends_when_the_client_leaves_and_is_charged_up_to_then(
    world: ScriptedApplication, caplog: pytest.LogCaptureFixture, stream: bool, path: str
) -> None:
    world.engine = ScriptedEngine(script=["t "] * 500, step_s=0.01)
    limits = Limits(LimitsConfig(tokens_per_minute_per_key=60_000), clock=lambda: 0.0)
    world.gate = Gate(limits=limits)
    caplog.set_level("INFO")

    async def main() -> None:
        connection = Connection(world.app, body(stream, path) | {"max_tokens": 500}, path)
        task = asyncio.create_task(connection.run())
        await until(lambda: world.engine.num_steps > 2 * TOLD_EVERY_TOKENS)
        connection.leave()
        await asyncio.wait_for(task, 1)
        assert world.engine.num_running == 0
        assert world.engine.num_cancelled == 1
        assert world.engine.num_steps < 100

    run(main())
    (rate,) = limits.allowance(ANONYMOUS, "default").rates
    num_charged = rate.bucket.capacity - rate.bucket.level
    assert 2 * TOLD_EVERY_TOKENS < num_charged <= len(world.engine.prompts[0]) + world.engine.num_steps
    assert sum(message.endswith(": cancelled, the client has left") for message in caplog.messages) == 1


@pytest.mark.parametrize("path", [CHAT, TEXT])
def test_a_stream_that_breaks_off_is_told_and_logged_with_its_request(
    world: ScriptedApplication, caplog: pytest.LogCaptureFixture, path: str
) -> None:
    world.engine.script, world.engine.fail_after_steps = ["t "] * 20, 5
    answer = TestClient(world.app).post(path, json=body(True, path), headers={"x-request-id": "mine-1"})
    assert '"error"' in answer.text
    assert "[DONE]" not in answer.text
    assert any(m.startswith("request mine-1") and "broke off" in m for m in caplog.messages)


def test_every_place_is_given_back_however_a_request_ends(world: ScriptedApplication) -> None:
    front = world.front

    async def main() -> None:
        app = create_app(front)
        for changes in (
            {},
            {"stream": True},
            {"model": "nothing"},
            {"max_tokens": 9999},
            {"n": 3, "stream": True},
        ):
            await Connection(app, body(stream=False) | changes).run()
        world.engine.step_s, world.engine.script = 0.01, ["t "] * 500
        leaving = Connection(app, body(stream=True))
        task = asyncio.create_task(leaving.run())
        await until(lambda: len(leaving.bodies) >= 3)
        assert front.admission.num_in_progress == 1
        leaving.leave()
        await task
        assert front.admission.num_in_progress == 0

    run(main())


def test_a_place_is_given_back_when_an_answer_is_cancelled_before_it_begins(
    world: ScriptedApplication,
) -> None:
    front = world.front

    async def main() -> None:
        connection = Stalled(create_app(front), body(stream=True), num_taken=0)
        task = asyncio.create_task(connection.run())
        await until(lambda: connection.is_stalled)
        task.cancel()
        await asyncio.wait([task])
        assert front.admission.num_in_progress == 0

    run(main())


def test_a_client_that_reads_no_more_gives_its_place_back(
    world: ScriptedApplication, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sse, "STALLED_S", 0.05)
    front = world.front

    async def main() -> None:
        await Stalled(create_app(front), body(stream=True), num_taken=3).run()
        assert front.admission.num_in_progress == 0
        assert world.engine.num_running == 0

    run(main())


@pytest.mark.parametrize("path", [CHAT, TEXT])
@pytest.mark.parametrize("stream", [True, False])
def test_who_leaves_before_the_first_token_is_charged_the_prompt(
    world: ScriptedApplication, stream: bool, path: str
) -> None:
    world.engine = ScriptedEngine(step_s=60)
    limits = Limits(LimitsConfig(tokens_per_minute_per_key=60_000), clock=lambda: 0.0)
    world.gate = Gate(limits=limits)

    async def main() -> None:
        connection = Connection(world.app, body(stream, path), path)
        task = asyncio.create_task(connection.run())
        await until(lambda: world.engine.num_running == 1)
        connection.leave()
        await asyncio.wait_for(task, 1)

    run(main())
    (rate,) = limits.allowance(ANONYMOUS, "default").rates
    assert rate.bucket.capacity - rate.bucket.level == len(world.engine.prompts[0])


def test_more_requests_than_places_are_refused_at_once_and_the_others_finish() -> None:
    config = ServingConfig(router=RouterConfig(max_waiting_requests=12))
    world = ScriptedApplication(config=config, engine=ScriptedEngine(["a", "b"], step_s=0.05))

    async def main() -> None:
        app = world.app
        connections = [Connection(app, body(stream=False)) for _ in range(100)]
        await asyncio.gather(*(connection.run() for connection in connections))
        statuses = [connection.status for connection in connections]
        assert statuses.count(200) == 12
        assert statuses.count(429) == 88
        refused = next(c for c in connections if c.status == 429)
        assert (b"retry-after", b"1") in refused.sent[0][1]["headers"]

    run(main())


def test_an_answer_that_takes_too_long_is_given_up(world: ScriptedApplication) -> None:
    world.config = ServingConfig(router=RouterConfig(request_timeout_s=0.1))
    world.engine = ScriptedEngine(script=["t "] * 500, step_s=0.01)

    async def main() -> None:
        connection = Connection(world.app, body(stream=False))
        await connection.run()
        assert connection.status == 503
        assert json.loads(connection.bodies[0])["error"]["code"] == "timeout"
        assert (b"x-should-retry", b"false") in connection.sent[0][1]["headers"]
        assert world.engine.num_running == 0

    run(main())


class SlowEmbedder(ScriptedEmbedder):
    """Takes `delay_s` seconds for each call; counts those that were given up."""

    def __init__(self, delay_s: float) -> None:
        super().__init__()
        self.delay_s = delay_s
        self.num_running = self.num_given_up = 0

    async def embed(self, texts: Sequence[str], is_query: bool = False) -> Embedded:
        self.num_running += 1
        try:
            await asyncio.sleep(self.delay_s)
        except asyncio.CancelledError:
            self.num_given_up += 1
            raise
        finally:
            self.num_running -= 1
        return await super().embed(texts, is_query)


@pytest.mark.parametrize("stream", [False, True])
def test_all_that_an_answer_waits_for_counts_towards_its_time(
    world: ScriptedApplication, stream: bool
) -> None:
    world.config = ServingConfig(router=RouterConfig(request_timeout_s=0.3))
    world.embedder = SlowEmbedder(0.2)
    world.retriever = ScriptedRetriever({"default": [scripted_passage(1, "27 days of leave")]})
    world.engine = ScriptedEngine(script=["27 ", "days"], step_s=0.1)

    async def main() -> None:
        connection = Connection(world.app, body(stream=stream) | {"model": "smollm2+rag"})
        await connection.run()
        last = json.loads(connection.bodies[-1].removeprefix(b"data: "))
        assert last["error"]["code"] == "timeout"

    run(main())


@pytest.mark.parametrize("path", ["completions", "embeddings", "classify", "rerank"])
def test_the_time_of_a_request_holds_while_its_model_is_looked_up(path: str) -> None:
    answers = threading.Event()

    class SlowRegistry(ScriptedApplication):
        def _registered(self) -> Snapshot:
            answers.wait(DEADLINE_S)
            return super()._registered()

    world = SlowRegistry(config=ServingConfig(router=RouterConfig(request_timeout_s=0.05)))
    asked = {"prompt": "Hi"} if path == "completions" else {"input": "Hi"}
    asked = {"query": "Hi", "documents": ["Ho"]} if path == "rerank" else asked

    async def main() -> None:
        connection = Connection(world.app, {"model": "unknown", **asked}, f"/v1/{path}")
        await connection.run()
        answers.set()
        assert connection.status == 503
        assert json.loads(connection.bodies[0])["error"]["code"] == "timeout"

    run(main())


def test_a_place_is_given_back_once() -> None:
    admission = Admission(1, request_timeout_s=60)
    with ExitStack() as taken:
        taken.enter_context(admission.place())
        with pytest.raises(Overloaded), admission.place():
            pass
        leave = taken.pop_all().close  # as a stream takes it over
    assert admission.num_in_progress == 1
    leave()
    leave()
    assert admission.num_in_progress == 0


def test_a_stream_that_does_not_end_in_time_says_so_and_is_given_up(world: ScriptedApplication) -> None:
    # Long enough to begin on a busy machine, a tenth of what the whole answer takes.
    world.config = ServingConfig(router=RouterConfig(request_timeout_s=1))
    world.engine = ScriptedEngine(script=["t "] * 500, step_s=0.02)

    async def main() -> None:
        connection = Connection(world.app, body(stream=True))
        await connection.run()
        assert connection.status == 200
        last = json.loads(connection.bodies[-1].removeprefix(b"data: "))
        assert last["error"]["code"] == "timeout"
        assert world.engine.num_running == 0

    run(main())


def test_a_search_of_a_store_takes_a_place_and_ends_with_its_client_or_its_time() -> None:
    router = RouterConfig(max_waiting_requests=1, request_timeout_s=0.3)
    config = ServingConfig(fine_tuning=FineTuningConfig(launcher="local"), router=router)
    embedder = SlowEmbedder(DEADLINE_S)
    world = ScriptedApplication(config=config, platform=Platform.of(config), embedder=embedder)
    store = TestClient(world.app).post("/v1/vector_stores", json={}).json()["id"]

    async def main() -> None:
        app, path = world.app, f"/v1/vector_stores/{store}/search"
        left, refused, late = (Connection(app, {"query": "leave"}, path) for _ in range(3))
        leaving = asyncio.create_task(left.run())
        await until(lambda: embedder.num_running == 1)
        await refused.run()
        assert refused.status == 429
        left.leave()
        await leaving
        assert (left.status, embedder.num_given_up) == (499, 1)
        await late.run()
        assert (late.status, embedder.num_given_up) == (503, 2)

    run(main())
