"""Creations under one Idempotency-Key at once on PostgreSQL, through the connections of two routers."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle, islice
from threading import Barrier
from typing import Any

import pytest
from sqlalchemy.engine import Engine

from cluster.batch_records import BatchRequest
from cluster.batches import Batches
from cluster.database import open_database
from cluster.errors import Unprocessable
from cluster.files import Files
from cluster.fine_tuning_jobs import FineTuningJobs
from cluster.fine_tuning_records import JobRequest
from cluster.idempotency import IdempotencyKey
from cluster.settings import Settings
from cluster.vector_stores import VectorStores

JOB = JobRequest("smollm2", "file-1", None, {}, {}, None, 1, None, {})
BATCH = BatchRequest("key-1", "/v1/embeddings", "file-1", "/input", 3600)
KEY = IdempotencyKey("order-1", "a fingerprint")
OTHER = IdempotencyKey("order-1", "another")
NUM_AT_ONCE = 8

Make = Callable[[Engine, IdempotencyKey], Any]


def upload(engine: Engine, key: IdempotencyKey) -> Any:
    files = Files(engine)
    content = key.fingerprint.encode()
    return files.add(files.stored("ann", "a.txt", "user_data", content, key=key), max_bytes=len(content))


MAKERS: dict[str, Make] = {
    "file": upload,
    "job": lambda engine, key: FineTuningJobs(engine).create("ann", JOB, 1, key),
    "batch": lambda engine, key: Batches(engine).create("ann", BATCH, 1, key),
    "store": lambda engine, key: VectorStores(engine).create("ann", "handbook", key=key),
}


@pytest.fixture
def routers(postgres: str, engine: Engine) -> list[Engine]:
    return [engine, open_database(Settings(database_url=postgres))]


def made_at_once(make: Make, routers: list[Engine], *keys: IdempotencyKey) -> list[Any]:
    """What NUM_AT_ONCE calls at a time made, with these keys in turn; None where one was refused."""
    begin = Barrier(NUM_AT_ONCE)

    def attempt(engine: Engine, key: IdempotencyKey) -> Any:
        begin.wait(10)
        try:
            return make(engine, key)
        except Unprocessable:
            return None

    with ThreadPoolExecutor(NUM_AT_ONCE) as pool:
        return list(pool.map(attempt, islice(cycle(routers), NUM_AT_ONCE), islice(cycle(keys), NUM_AT_ONCE)))


@pytest.mark.parametrize("kind", MAKERS)
def test_one_request_that_comes_at_once_makes_one_object(kind: str, routers: list[Engine]) -> None:
    first, *others = made_at_once(MAKERS[kind], routers, KEY)
    assert all(other == first for other in others)


def test_of_two_uploads_at_once_under_one_key_one_is_kept_whole(routers: list[Engine]) -> None:
    # Each router sends one of the two.
    made = made_at_once(upload, routers, KEY, OTHER)
    kept = [file for file in made if file is not None]
    assert len(kept) == NUM_AT_ONCE // 2
    assert len(set(map(str, kept))) == 1
    assert Files(routers[0]).open(kept[0]).read().decode() == kept[0].fingerprint
