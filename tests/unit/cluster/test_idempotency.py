"""Creations under an Idempotency-Key, on SQLite; those at once on PostgreSQL are in tests/integration/cluster."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cluster.batch_records import BATCHES, BatchRequest
from cluster.batches import Batches
from cluster.database import open_database
from cluster.errors import Conflict, Overloaded, Unprocessable
from cluster.files import FILES, Files
from cluster.fine_tuning_jobs import FineTuningJobs
from cluster.fine_tuning_records import JobRequest
from cluster.idempotency import IdempotencyKey, Identity
from cluster.vector_stores import VectorStores

JOB = JobRequest("smollm2", "file-1", None, {}, {}, None, 1, None, {})
BATCH = BatchRequest("key-1", "/v1/embeddings", "file-1", "/input", 3600)
KEY = IdempotencyKey("order-1", "a fingerprint")
OTHER = replace(KEY, fingerprint="another")

Make = Callable[[str, IdempotencyKey | None], Any]


@pytest.fixture(params=["file", "job", "batch", "store", "file batch"])
def make(request: pytest.FixtureRequest) -> Make:
    """`make("ann", key)` makes an object of this kind, through a database that it opens."""
    engine = open_database()
    files, stores = Files(engine), VectorStores(engine)
    store_ids = {tenant: stores.create(tenant).id for tenant in ("ann", "bob")}
    makers: dict[str, Make] = {
        "file": lambda tenant, key: files.add(
            files.stored(tenant, "a.txt", "user_data", b"text", key=key), max_bytes=4
        ),
        "job": lambda tenant, key: FineTuningJobs(engine).create(tenant, JOB, 1, key),
        "batch": lambda tenant, key: Batches(engine).create(tenant, BATCH, 1, key),
        "store": lambda tenant, key: stores.create(tenant, "handbook", key=key),
        "file batch": lambda tenant, key: stores.files.attach_batch(tenant, store_ids[tenant], [], key),
    }
    return makers[request.param]


def test_a_repeat_is_answered_with_what_was_made_also_where_no_more_may_be(make: Make) -> None:
    made = make("ann", KEY)
    assert make("ann", KEY) == made


def test_a_key_stands_for_one_request_of_one_project(make: Make) -> None:
    made = make("ann", KEY)
    with pytest.raises(Unprocessable, match="stands for another request") as refused:
        make("ann", OTHER)
    assert (refused.value.param, refused.value.code) == ("Idempotency-Key", "idempotency_key_reused")
    assert make("bob", OTHER).id != made.id


def test_repeats_at_once_make_one(make: Make) -> None:
    with ThreadPoolExecutor(4) as pool:
        assert len({made.id for made in pool.map(lambda _: make("ann", KEY), range(4))}) == 1


def test_an_id_is_random_without_a_key_and_follows_from_one_otherwise() -> None:
    ids = [Identity.of(FILES, "ann", None).id for _ in range(2)]
    named = [
        Identity.of(table, tenant, replace(KEY, name=name)).id
        for table in (FILES, BATCHES)
        for tenant in ("ann", "bob")
        for name in ("order-1", "order-2")
    ]
    assert len({*ids, *named}) == 10
    assert Identity.of(FILES, "ann", OTHER).id == named[0]


def test_a_repeat_counts_for_nothing() -> None:
    files, jobs = Files(), FineTuningJobs()
    first = files.add(files.stored("ann", "a.txt", "user_data", b"text", key=KEY), max_bytes=7)
    again = files.stored("ann", "a.txt", "user_data", b"text", key=KEY)
    assert files.add(again, max_bytes=7) == first
    assert [file.id for file in files.list("ann").data] == [first.id]
    assert not Path(again.uri).exists()
    assert files.open(first).read() == b"text"
    jobs.create("ann", JOB, 2, KEY)
    job = jobs.create("ann", JOB, 2, KEY)
    assert job.num_events == 2
    jobs.create("ann", JOB, 2)
    with pytest.raises(Overloaded):
        jobs.create("ann", JOB, 2)


def test_other_bytes_under_a_key_leave_those_that_are_there_alone() -> None:
    files = Files()
    first, other = (
        files.stored("ann", "a.txt", "user_data", content, key=key)
        for content, key in ((b"first", KEY), (b"other", OTHER))
    )
    files.add(first)
    with pytest.raises(Unprocessable):
        files.add(other)
    assert files.open(files.get("ann", first.id)).read() == b"first"
    assert not Path(other.uri).exists()


def test_what_died_before_its_row_was_written_is_made_by_the_repeat_and_its_bytes_are_orphans() -> None:
    files = Files()
    died = files.stored("ann", "a.txt", "user_data", b"text", key=KEY)
    assert files.made_before("ann", KEY) is None
    made = files.add(files.stored("ann", "a.txt", "user_data", b"text", key=KEY))
    assert files.made_before("ann", KEY) == made
    (removed,) = files.remove_orphans(before=float("inf"))
    assert removed.endswith(died.uri)
    assert files.open(made).read() == b"text"


def test_what_was_deleted_is_not_made_again_by_a_late_repeat() -> None:
    files, stores = Files(), VectorStores()
    file = files.add(files.stored("ann", "a.txt", "user_data", b"text", key=KEY))
    store = stores.create("ann", key=KEY)
    files.delete("ann", file.id)
    stores.delete("ann", store.id)
    again = files.stored("ann", "a.txt", "user_data", b"text", key=KEY)
    for repeat in (
        lambda: files.made_before("ann", KEY),
        lambda: files.add(again),
        lambda: stores.create("ann", key=KEY),
    ):
        with pytest.raises(Conflict, match="was deleted; send another key"):
            repeat()
    assert not Path(again.uri).exists()
