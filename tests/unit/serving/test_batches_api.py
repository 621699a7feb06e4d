"""`/v1/batches` by the real `openai` client, against the application of scripted models in this process."""

from __future__ import annotations

import asyncio
import functools
import json
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

import httpx
import openai
import pytest
from openai.types import Batch
from sqlalchemy import select

from cluster.api_keys import make_key
from cluster.batch_queue import BatchQueue
from cluster.batch_records import RESULTS
from cluster.batches import WINDOW_S, Batches
from cluster.database import reading
from cluster.errors import InvalidInput, Unavailable
from cluster.files import Files
from cluster.fine_tuning_jobs import FineTuningJobs
from cluster.registry import Registry
from serving.authentication import Gate, Keyring
from serving.batch_answers import BatchAnswers
from serving.batch_input import Row
from serving.batch_input import rows as input_rows
from serving.batch_work import BatchWork
from serving.config import BatchesConfig, FineTuningConfig, LimitsConfig, ServingConfig
from serving.limits import Limits
from serving.platform import Platform
from serving.retention import Retention
from serving.scripted_parts import ScriptedApplication, ScriptedEmbedder

CHAT, EMBED = "/v1/chat/completions", "/v1/embeddings"
ENDED = ("completed", "failed", "expired", "cancelled")


class Embedder(ScriptedEmbedder):
    """Counts who asks at once, and waits where `gate` is closed: by a test, or after `closes_after` more texts."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Event()
        self.gate.set()
        self.closes_after: int | None = None
        self.num_at_once = self.most_at_once = 0

    def reopen(self) -> None:
        """For good: it may not have closed yet."""
        self.closes_after = None
        self.gate.set()

    async def embed(self, texts: Any, is_query: bool = False) -> Any:
        self.num_at_once += 1
        self.most_at_once = max(self.most_at_once, self.num_at_once)
        try:
            await asyncio.sleep(0)
            await self.gate.wait()
            if self.closes_after is not None:
                self.closes_after -= 1
                if self.closes_after == 0:
                    self.gate.clear()
            return await super().embed(texts, is_query)
        finally:
            self.num_at_once -= 1


@pytest.fixture
def world() -> ScriptedApplication:
    config = ServingConfig(
        fine_tuning=FineTuningConfig(launcher="local"),
        batches=BatchesConfig(max_rows=50, max_rows_at_once=3, max_waiting_per_tenant=4),
    )
    return ScriptedApplication(config=config, embedder=Embedder(), platform=Platform.of(config))


@pytest.fixture(autouse=True)
def _no_idling(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("IDLE_S", "PUT_OFF_S"):
        monkeypatch.setattr(f"serving.batch_work.{name}", 0.01)
    for name in ("FIRST_PAUSE_S", "ROOM_POLL_S"):
        monkeypatch.setattr(f"serving.batch_answers.{name}", 0.01)


def rows(*bodies: dict[str, Any], url: str = EMBED) -> bytes:
    return b"\n".join(
        json.dumps({"custom_id": f"row-{number}", "method": "POST", "url": url, "body": body}).encode()
        for number, body in enumerate(bodies, start=1)
    )


def texts(num: int, word: str = "text") -> bytes:
    return rows(*({"model": "minilm", "input": f"{word} {number}"} for number in range(1, num + 1)))


class Caller:
    """One client of the application, and what it asks for most."""

    def __init__(self, world: ScriptedApplication, client: openai.AsyncOpenAI) -> None:
        self.world = world
        self.api = client

    async def create(self, content: bytes, endpoint: str = EMBED, **options: Any) -> Batch:
        file = await self.api.files.create(file=("rows.jsonl", content), purpose="batch")
        asked: Any = {"input_file_id": file.id, "endpoint": endpoint, "completion_window": "24h"}
        return await self.api.batches.create(**asked | options)

    async def until(self, batch: Batch, reached: Callable[[Batch], bool]) -> Batch:
        async with asyncio.timeout(10):
            while not reached(batch):
                await asyncio.sleep(0.01)
                batch = await self.api.batches.retrieve(batch.id)
        return batch

    async def end(self, batch: Batch) -> Batch:
        ended = await self.until(batch, lambda batch: batch.status in ENDED)
        Batch.model_validate(ended.model_dump(warnings="error"), strict=True)
        return ended

    async def lines(self, file_id: str | None) -> list[Any]:
        assert file_id is not None
        return [json.loads(line) for line in (await self.api.files.content(file_id)).text.splitlines()]


@asynccontextmanager
async def calling(world: ScriptedApplication, key: str = "none", app: Any = None) -> AsyncIterator[Caller]:
    transport = httpx.ASGITransport(app or world.app)
    async with httpx.AsyncClient(transport=transport) as http:
        client = openai.AsyncOpenAI(base_url="http://test/v1", api_key=key, http_client=http, max_retries=0)
        yield Caller(world, client)


def worker(
    world: ScriptedApplication,
    clock: Callable[[], float] = time.time,
    lease_s: float = 5.0,
    renew_every_s: float = 0.02,
) -> BatchWork:
    """The work of a router that notices at once what is asked for."""
    assert world.platform is not None
    engine, config = world.platform.engine, world.config.batches
    answers = BatchAnswers(world.front, world.gate, config.max_rows_at_once)
    return BatchWork(BatchQueue(engine, clock), Files(engine), answers, config, lease_s, renew_every_s)


def in_a_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """A test that is a coroutine, given up after 20 s."""

    @functools.wraps(test)
    def run(**fixtures: Any) -> None:
        asyncio.run(asyncio.wait_for(test(**fixtures), 20))

    return run


@in_a_loop
async def test_a_batch_is_answered_row_by_row_in_the_order_of_its_input(world: ScriptedApplication) -> None:
    bodies = [{"model": "smollm2", "messages": [{"role": "user", "content": "Hi"}]} for _ in range(5)]
    bodies[2]["model"] = "nobody"
    async with calling(world) as caller, worker(world).at_work():
        made = await caller.create(rows(*bodies, url=CHAT), CHAT, metadata={"team": "docs"})
        assert (made.status, made.request_counts.total) == ("validating", 0)  # type: ignore[union-attr]
        done = await caller.end(made)
        assert (done.status, done.metadata, done.errors) == ("completed", {"team": "docs"}, None)
        assert done.request_counts.model_dump() == {"total": 5, "completed": 4, "failed": 1}  # type: ignore[union-attr]
        assert made.created_at <= done.in_progress_at <= done.finalizing_at <= done.completed_at  # type: ignore[operator]
        answers = await caller.lines(done.output_file_id)
        assert [line["custom_id"] for line in answers] == ["row-1", "row-2", "row-4", "row-5"]
        alone = await caller.api.chat.completions.create(**bodies[0])  # type: ignore[call-overload]
        for line in answers:
            answer = line["response"]["body"]
            assert answer["choices"][0]["message"]["content"] == alone.choices[0].message.content
        assert done.usage.total_tokens == 4 * alone.usage.total_tokens  # type: ignore[union-attr]
        assert len({line["response"]["request_id"] for line in answers}) == 4
        (refused,) = await caller.lines(done.error_file_id)
        assert (refused["custom_id"], refused["error"]) == ("row-3", None)
        assert refused["response"]["status_code"] == 404
        assert refused["response"]["body"]["error"]["param"] == "model"
        files = [file.id async for file in caller.api.files.list(purpose="batch_output")]
        assert set(files) == {done.output_file_id, done.error_file_id}


@in_a_loop
async def test_what_a_request_gets_wrong_is_refused_before_there_is_a_batch(
    world: ScriptedApplication,
) -> None:
    async with calling(world) as caller:
        other = await caller.api.files.create(file=("a.md", b"x"), purpose="user_data")
        for options, param in (
            ({"input_file_id": "file-none"}, "input_file_id"),
            ({"input_file_id": other.id}, "input_file_id"),
            ({"endpoint": "/v1/responses"}, "endpoint"),
            ({"completion_window": "1h"}, "completion_window"),
            ({"metadata": {"k": "x" * 513}}, "metadata"),
            (
                {"output_expires_after": {"anchor": "created_at", "seconds": 60}},
                "output_expires_after.seconds",
            ),
        ):
            with pytest.raises(openai.BadRequestError) as refused:
                await caller.create(texts(1), **options)
            assert refused.value.param == param
        for _ in range(4):
            await caller.create(texts(1))
        with pytest.raises(openai.RateLimitError, match="4 batches have not ended"):
            await caller.create(texts(1))


@in_a_loop
async def test_an_input_with_faults_fails_its_batch_and_nothing_is_answered(
    world: ScriptedApplication,
) -> None:
    async with calling(world) as caller, worker(world).at_work():
        failed = await caller.end(await caller.create(texts(2) + b"\n{\n" + texts(1)))
        assert (failed.status, failed.output_file_id, failed.error_file_id) == ("failed", None, None)
        assert failed.errors is not None
        found = [(fault.line, fault.code) for fault in failed.errors.data or ()]
        assert found == [(3, "invalid_json_line"), (4, "duplicate_custom_id")]
        assert world.embedder.texts == []  # type: ignore[attr-defined]


@in_a_loop
async def test_batches_are_listed_by_page_newest_first(world: ScriptedApplication) -> None:
    async with calling(world) as caller:
        made = [(await caller.create(texts(1))).id for _ in range(3)]
        first = await caller.api.batches.list(limit=2)
        assert ([batch.id for batch in first.data], first.has_more) == (made[:0:-1], True)
        assert [batch.id async for batch in caller.api.batches.list(limit=2)] == made[::-1]
        with pytest.raises(openai.NotFoundError):
            await caller.api.batches.list(after="batch_none")


@in_a_loop
async def test_rows_are_answered_a_few_at_a_time_and_tenants_take_turns(world: ScriptedApplication) -> None:
    keys = {tenant: make_key(tenant, ["inference", "files"]) for tenant in ("ann", "bob")}
    world.gate = Gate(Keyring(lambda: [key for key, _ in keys.values()]))
    embedder: Any = world.embedder
    app = world.app
    async with calling(world, keys["ann"][1], app) as ann, calling(world, keys["bob"][1], app) as bob:
        many = [await ann.create(texts(40)) for _ in range(3)]
        few = await bob.create(texts(4, "turn"))
        embedder.gate.clear()
        async with worker(world).at_work():
            await bob.until(few, lambda batch: batch.status == "in_progress")
            embedder.gate.set()
            await bob.end(few)
            for batch in many:
                done = await ann.end(batch)
                assert len(await ann.lines(done.output_file_id)) == 40
        assert 1 < embedder.most_at_once <= 3
        # After as many of the other tenant's 120 rows as one of its turns has, not after all.
        assert embedder.texts.index("turn 4") < 80
        for ask in (bob.api.batches.retrieve, bob.api.batches.cancel):
            with pytest.raises(openai.NotFoundError):
                await ask(many[0].id)
        with pytest.raises(openai.BadRequestError, match="upload it first"):
            await bob.api.batches.create(
                input_file_id=many[0].input_file_id, endpoint=EMBED, completion_window="24h"
            )


@in_a_loop
async def test_rows_are_read_as_they_are_answered_as_each_may_be_large(
    world: ScriptedApplication, monkeypatch: pytest.MonkeyPatch
) -> None:
    num_read, embedder = 0, cast(Embedder, world.embedder)

    def counted(stream: BinaryIO) -> Iterator[Row]:
        nonlocal num_read
        for row in input_rows(stream):
            num_read += 1
            yield row

    monkeypatch.setattr("serving.batch_work.rows", counted)
    embedder.closes_after = 5
    async with calling(world) as caller, worker(world).at_work():
        batch = await caller.create(texts(40))
        await caller.until(batch, lambda batch: batch.request_counts.completed > 2)  # type: ignore[union-attr]
        assert num_read <= 5 + 3 + 1  # the answered ones, those in their places, and the next
        embedder.reopen()
        done = await caller.end(batch)
        assert (done.request_counts.completed, num_read) == (40, 40)  # type: ignore[union-attr]


@in_a_loop
async def test_interactive_requests_keep_half_of_the_places(world: ScriptedApplication) -> None:
    front, embedder = world.front, world.embedder
    assert world.platform is not None
    work = BatchWork.of(world.platform.engine, front, world.gate, world.config.batches)
    interactive = ExitStack()
    for _ in range(world.config.router.max_waiting_requests // 2):
        interactive.enter_context(front.admission.place())
    async with calling(world) as caller, work.at_work():
        batch = await caller.create(texts(2))
        await caller.until(batch, lambda batch: batch.status == "in_progress")
        await asyncio.sleep(0.1)
        assert embedder.texts == []  # type: ignore[attr-defined]
        interactive.close()
        assert (await caller.end(batch)).status == "completed"


@in_a_loop
async def test_a_row_counts_against_the_limits_of_who_made_the_batch(world: ScriptedApplication) -> None:
    now = [0.0]
    limits = LimitsConfig(requests_per_minute_per_tenant=8)
    world.gate = Gate(limits=Limits(limits, clock=lambda: now[0]))
    async with calling(world) as caller, worker(world).at_work():
        batch = await caller.create(texts(10))  # two requests
        assert world.platform is not None
        store = Batches(world.platform.engine)
        async with asyncio.timeout(10):
            while store.get("default", batch.id).num_completed < 6:
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        assert store.get("default", batch.id).num_completed == 6
        with pytest.raises(openai.RateLimitError):
            await caller.api.batches.retrieve(batch.id)


@in_a_loop
async def test_a_cancelled_batch_keeps_what_was_answered_and_names_the_rest(
    world: ScriptedApplication,
) -> None:
    embedder: Any = world.embedder
    async with calling(world) as caller, worker(world).at_work():
        embedder.closes_after = 5
        batch = await caller.create(texts(20))
        await caller.until(batch, lambda batch: batch.request_counts.completed > 2)  # type: ignore[union-attr]
        cancelling = await caller.api.batches.cancel(batch.id)
        assert cancelling.status in ("cancelling", "cancelled")
        done = await caller.end(batch)
        assert done.status == "cancelled"
        assert (await caller.api.batches.cancel(batch.id)).status == "cancelled"
        answered = await caller.lines(done.output_file_id)
        rest = await caller.lines(done.error_file_id)
        assert {line["error"]["code"] for line in rest} == {"batch_cancelled"}
        ids = [line["custom_id"] for line in answered + rest]
        assert sorted(ids) == sorted(f"row-{number}" for number in range(1, 21))
        assert done.request_counts.completed == len(answered)  # type: ignore[union-attr]
        embedder.reopen()
        finished = await caller.end(await caller.create(texts(1)))
        with pytest.raises(openai.ConflictError, match="is completed"):
            await caller.api.batches.cancel(finished.id)


@in_a_loop
async def test_a_batch_expires_with_what_it_has(world: ScriptedApplication) -> None:
    embedder: Any = world.embedder
    late = [0.0]

    async with calling(world) as caller, worker(world, lambda: time.time() + late[0]).at_work():
        embedder.closes_after = 5
        batch = await caller.create(texts(20))
        await caller.until(batch, lambda batch: batch.request_counts.completed > 2)  # type: ignore[union-attr]
        late[0] = WINDOW_S
        done = await caller.end(batch)
        assert done.status == "expired"
        rest = await caller.lines(done.error_file_id)
        assert {line["error"]["code"] for line in rest} == {"batch_expired"}
        assert len(await caller.lines(done.output_file_id)) + len(rest) == 20


@in_a_loop
async def test_a_part_that_is_down_is_waited_for(world: ScriptedApplication) -> None:
    embedder: Any = world.embedder
    async with calling(world) as caller, worker(world).at_work():
        embedder.failure = Unavailable("the embedder is being replaced")
        batch = await caller.create(texts(5))
        await caller.until(batch, lambda batch: batch.status == "in_progress")
        await asyncio.sleep(0.2)
        embedder.failure = None
        done = await caller.end(batch)
        assert done.request_counts.model_dump() == {"total": 5, "completed": 5, "failed": 0}  # type: ignore[union-attr]
        # A refusal of the row itself is final.
        embedder.failure = InvalidInput("no", "input")
        refused = await caller.end(await caller.create(texts(2)))
        assert refused.request_counts.failed == 2  # type: ignore[union-attr]
        assert refused.output_file_id is None


@in_a_loop
async def test_a_row_that_brings_its_part_down_each_time_fails_alone(world: ScriptedApplication) -> None:
    embedder: Any = world.embedder
    plain = embedder.embed

    async def embed(texts: Any, is_query: bool = False) -> Any:
        if texts == ["text 2"]:
            raise Unavailable("the embedder ended")
        return await plain(texts, is_query)

    embedder.embed = embed
    async with calling(world) as caller, worker(world).at_work():
        done = await caller.end(await caller.create(texts(3)))
        (failed,) = await caller.lines(done.error_file_id)
        assert (failed["custom_id"], failed["response"]["status_code"]) == ("row-2", 503)
        assert len(await caller.lines(done.output_file_id)) == 2


@in_a_loop
async def test_an_input_that_is_deleted_ends_the_batch_with_what_it_has(world: ScriptedApplication) -> None:
    async with calling(world) as caller:
        batch = await caller.create(texts(2))
        await caller.api.files.delete(batch.input_file_id)
        async with worker(world).at_work():
            done = await caller.end(batch)
        assert done.status == "failed"
        assert done.errors is not None
        assert [fault.code for fault in done.errors.data or ()] == ["file_not_found"]


@in_a_loop
async def test_two_routers_answer_no_row_twice_and_a_late_one_changes_nothing(
    world: ScriptedApplication,
) -> None:
    """The first router's lease runs out while it answers: as one that was suspended it goes on beside the second."""
    embedder: Any = world.embedder
    suspended = worker(world, lease_s=0.05, renew_every_s=60.0)
    async with calling(world) as caller, suspended.at_work():
        embedder.gate.clear()
        batch = await caller.create(texts(12))
        await caller.until(batch, lambda _: embedder.num_at_once == 3)
        async with worker(world).at_work():
            await caller.until(batch, lambda _: embedder.num_at_once == 6)
            embedder.gate.set()
            done = await caller.end(batch)
        assert len(embedder.texts) > 12
        answered = await caller.lines(done.output_file_id)
        assert [line["custom_id"] for line in answered] == [f"row-{number}" for number in range(1, 13)]
        assert done.request_counts.completed == 12  # type: ignore[union-attr]
        assert world.platform is not None
        with reading(world.platform.engine) as connection:
            assert connection.execute(select(RESULTS)).all() == []


@in_a_loop
async def test_a_router_that_leaves_gives_its_batches_back(world: ScriptedApplication) -> None:
    embedder: Any = world.embedder
    async with calling(world) as caller:
        embedder.closes_after = 5
        batch = await caller.create(texts(9))
        async with worker(world).at_work():
            await caller.until(batch, lambda batch: batch.request_counts.completed > 2)  # type: ignore[union-attr]
        embedder.reopen()
        async with worker(world).at_work():
            done = await caller.end(batch)
        assert done.status == "completed"
        assert len(embedder.texts) <= 9 + 3  # those that were being answered begin anew
        assert len(await caller.lines(done.output_file_id)) == 9


@in_a_loop
async def test_a_batch_that_cannot_be_closed_yet_leaves_no_bytes_behind(
    world: ScriptedApplication, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    num_tries, stored = 0, Files.stored

    def full_at_first(*given: Any, **options: Any) -> Any:
        nonlocal num_tries
        if "error" in given[2]:
            num_tries += 1
            if num_tries < 3:
                raise Unavailable("the storage is full")
        return stored(*given, **options)

    async with calling(world) as caller, worker(world).at_work():
        monkeypatch.setattr(Files, "stored", full_at_first)
        some, other = [json.loads(line) for line in texts(2).splitlines()]
        other["body"]["model"] = "nobody"
        batch = await caller.create(json.dumps(some).encode() + b"\n" + json.dumps(other).encode())
        done = await caller.end(batch)
        assert (done.status, num_tries) == ("completed", 3)
        kept = {file.name[:29] for file in (home / "storage" / "files").rglob("file-*")}
        assert kept == {batch.input_file_id, done.output_file_id, done.error_file_id}


@in_a_loop
async def test_the_input_of_a_batch_stays_until_the_batch_has_ended(world: ScriptedApplication) -> None:
    assert world.platform is not None
    engine = world.platform.engine
    files = Files(engine, lambda: 4e9)
    retention = Retention(files, FineTuningJobs(engine), Batches(engine), Registry(engine))
    async with calling(world) as caller:
        batch = await caller.create(texts(2))
        retention.apply()
        async with worker(world).at_work():
            done = await caller.end(batch)
        assert done.status == "completed"
        assert files.expired()
        retention.apply()
        assert not files.expired()
