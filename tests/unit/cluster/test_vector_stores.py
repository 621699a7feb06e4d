from __future__ import annotations

import uuid
from collections.abc import Callable

import pytest
from played_clock import Clock
from sqlalchemy.engine import Engine

from cluster.database import open_database
from cluster.errors import Conflict, NotFound
from cluster.files import Files
from cluster.vector_store_queue import MAX_ATTEMPTS, Task, VectorStoreQueue
from cluster.vector_store_records import DAY_S, Chunking, FileStatus, NewFile
from cluster.vector_stores import VectorStores

CUT = Chunking(192, 32)
NumSteps = Callable[[Engine, Callable[[], object]], int]


@pytest.fixture
def engine() -> Engine:
    return open_database()


@pytest.fixture
def stores(engine: Engine, clock: Clock) -> VectorStores:
    return VectorStores(engine, clock)


@pytest.fixture
def queue(engine: Engine, clock: Clock) -> VectorStoreQueue:
    return VectorStoreQueue(engine, clock)


@pytest.fixture
def files(engine: Engine, clock: Clock) -> Files:
    return Files(engine, clock)


def new(files: Files, tenant: str = "ann", name: str = "a.md") -> NewFile:
    file = files.add(files.stored(tenant, name, "assistants", b"text"))
    return NewFile(file.id, name, CUT, {})


def test_a_store_counts_its_files_by_status(
    stores: VectorStores, queue: VectorStoreQueue, files: Files
) -> None:
    store = stores.create("ann", "docs", files=[new(files) for _ in range(3)])
    assert (store.file_counts.in_progress, store.file_counts.total) == (3, 3)
    for usage in (10, 20):
        work = queue.claim(30)
        assert work is not None
        assert queue.complete(work, usage)
    work = queue.claim(30)
    assert work is not None
    queue.fail(work, "invalid_file", "no text")
    counted = stores.get("ann", store.id)
    assert counted.file_counts._asdict() == {"in_progress": 0, "completed": 2, "failed": 1, "cancelled": 0}
    assert counted.usage_bytes == 30
    (failed,) = stores.files.list("ann", store.id, status=FileStatus.FAILED).data
    assert failed.error == ("invalid_file", "no text")


def test_pages_go_both_ways_without_gap_or_repeat(stores: VectorStores, clock: Clock) -> None:
    ids = []
    for number in range(5):
        clock.now += number % 2  # some at the same moment
        ids.append(stores.create("ann", str(number)).id)
    newest_first = [store.id for store in stores.list("ann").data]
    assert sorted(newest_first) == sorted(ids)
    first = stores.list("ann", limit=2)
    second = stores.list("ann", limit=2, after=first.data[-1].id)
    last = stores.list("ann", limit=2, after=second.data[-1].id)
    walked = [store.id for page in (first, second, last) for store in page.data]
    assert walked == newest_first
    assert (first.has_more, second.has_more, last.has_more) == (True, True, False)
    back = stores.list("ann", limit=2, before=last.data[0].id)
    assert [store.id for store in back.data] == newest_first[2:4]
    assert [store.id for store in stores.list("ann", ascending=True).data] == newest_first[::-1]
    with pytest.raises(NotFound):
        stores.list("ann", after="vs_unknown")
    with pytest.raises(NotFound):
        stores.list("bob", after=ids[0])


def test_work_is_leased_to_one_and_falls_to_another_when_its_holder_dies(
    stores: VectorStores, queue: VectorStoreQueue, files: Files, clock: Clock
) -> None:
    stores.create("ann", files=[new(files)])
    dead = queue.claim(30)
    assert dead is not None
    assert queue.claim(30) is None
    clock.now += 29
    assert queue.renew(dead, 30)
    clock.now += 31
    successor = queue.claim(30)
    assert successor is not None
    assert successor.num_attempts == 2
    assert not queue.renew(dead, 30)
    assert not queue.complete(dead, 10)
    assert queue.complete(successor, 10)
    assert queue.claim(30) is None


def test_what_was_put_off_is_no_attempt(
    stores: VectorStores, queue: VectorStoreQueue, files: Files, clock: Clock
) -> None:
    stores.create("ann", files=[new(files)])
    for _ in range(MAX_ATTEMPTS + 2):
        work = queue.claim(30)
        assert work is not None
        assert work.num_attempts == 1
        queue.put_off(work, 5)
        assert queue.claim(30) is None
        clock.now += 5


def test_tenants_take_turns(
    stores: VectorStores, queue: VectorStoreQueue, files: Files, clock: Clock
) -> None:
    stores.create("ann", files=[new(files) for _ in range(5)])
    clock.now += 10
    stores.create("bob", files=[new(files, "bob")])
    order = []
    for _ in range(3):
        work = queue.claim(30)
        assert work is not None
        order.append(work.file.tenant)
    assert order == ["ann", "bob", "ann"]


def test_the_work_of_a_claim_grows_as_the_files_that_wait(
    stores: VectorStores, queue: VectorStoreQueue, engine: Engine, num_steps: NumSteps
) -> None:
    def claim_among(num_more: int) -> int:
        many = [NewFile(f"file-{uuid.uuid4().hex}", "a.md", CUT, {}) for _ in range(num_more)]
        stores.create("ann", files=many)
        return num_steps(engine, lambda: queue.claim(30))

    few, many = claim_among(100), claim_among(400)
    assert many < 10 * few  # of 5 times as many; 25 times, were each compared with each


def test_a_page_of_a_large_store_and_leave_to_search_it_read_no_more_than_of_a_small_one(
    stores: VectorStores, files: Files, engine: Engine, num_steps: NumSteps
) -> None:
    def steps_with(num_files: int) -> list[int]:
        many = [NewFile(f"file-{uuid.uuid4().hex}", "a.md", CUT, {}) for _ in range(num_files)]
        store = stores.create("ann", files=many)
        first = stores.files.list("ann", store.id, limit=10).data[-1]
        return [
            num_steps(engine, lambda: stores.files.list("ann", store.id, limit=10, after=first.id)),
            num_steps(engine, lambda: stores.require_usable("ann", store.id)),
            num_steps(engine, lambda: stores.files.attach("ann", store.id, new(files))),
        ]

    for few, many in zip(steps_with(20), steps_with(400), strict=True):
        assert many < few + 500


def test_a_file_that_is_taken_out_while_it_is_read_is_removed_next(
    stores: VectorStores, queue: VectorStoreQueue, files: Files
) -> None:
    file = new(files)
    store = stores.create("ann", files=[file])
    reading = queue.claim(30)
    assert reading is not None
    stores.files.detach("ann", store.id, file.id)
    with pytest.raises(NotFound):
        stores.files.get("ann", store.id, file.id)
    queue.forget(store.id, [file.id])  # a worker holds it: its row stays
    assert not queue.complete(reading, 10)
    assert queue.is_known(reading)
    removal = queue.claim(30)
    assert removal is not None
    assert removal.task is Task.REMOVE
    queue.removed(removal)
    assert not queue.is_known(reading)
    assert queue.claim(30) is None


def test_new_attributes_while_it_is_read_make_the_file_be_read_again(
    stores: VectorStores, queue: VectorStoreQueue, files: Files
) -> None:
    file = new(files)
    store = stores.create("ann", files=[file])
    first = queue.claim(30)
    assert first is not None
    stores.files.set_attributes("ann", store.id, file.id, {"year": 2024})
    assert not queue.complete(first, 10)
    second = queue.claim(30)
    assert second is not None
    assert second.file.attributes == {"year": 2024}
    assert second.must_purge
    assert queue.complete(second, 10)


def test_a_cancelled_batch_ends_what_is_not_read_and_purges_its_chunks(
    stores: VectorStores, queue: VectorStoreQueue, files: Files
) -> None:
    store = stores.create("ann")
    batch = stores.files.attach_batch("ann", store.id, [new(files) for _ in range(3)])
    done, running = queue.claim(30), queue.claim(30)
    assert done is not None
    assert running is not None
    queue.complete(done, 10)
    cancelled = stores.files.cancel_batch("ann", store.id, batch.id)
    assert cancelled.is_cancelled
    assert cancelled.file_counts._asdict() == {
        "in_progress": 0,
        "completed": 1,
        "failed": 0,
        "cancelled": 2,
    }
    assert stores.files.cancel_batch("ann", store.id, batch.id) == cancelled
    assert not queue.complete(running, 10)
    tasks = []
    while work := queue.claim(30):
        tasks.append(work.task)
        assert queue.purged(work)
    assert tasks == [Task.PURGE, Task.PURGE]
    assert len(stores.files.list("ann", store.id, batch_id=batch.id, status=FileStatus.CANCELLED).data) == 2


def test_a_deleted_store_is_gone_at_once_and_its_rows_when_its_chunks_are(
    stores: VectorStores, queue: VectorStoreQueue, files: Files, engine: Engine
) -> None:
    store = stores.create("ann", files=[new(files), new(files)])
    stores.delete("ann", store.id)
    with pytest.raises(NotFound):
        stores.get("ann", store.id)
    assert stores.list("ann").data == []
    queue.sweep()
    gone = queue.removing(store.id, 10)
    assert len(gone) == 2
    queue.forget(store.id, gone)
    queue.sweep()
    with engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM vector_stores").scalar() == 0


def test_a_store_expires_after_its_last_use_and_its_files_go(
    stores: VectorStores, queue: VectorStoreQueue, files: Files, clock: Clock
) -> None:
    store = stores.create("ann", expires_after_days=2, files=[new(files)])
    clock.now += 1.5 * DAY_S
    stores.touch([store.id])
    clock.now += 1.5 * DAY_S
    queue.sweep()
    stores.require_usable("ann", store.id)
    assert stores.get("ann", store.id).file_counts.total == 1
    clock.now += 0.5 * DAY_S
    with pytest.raises(Conflict, match="expired"):
        stores.require_usable("ann", store.id)
    with pytest.raises(Conflict, match="expired"):
        stores.files.attach("ann", store.id, new(files))
    with pytest.raises(Conflict, match="expired"):  # it would count as used, and live on without its files
        stores.modify("ann", store.id, name="handbook")
    queue.sweep()
    assert stores.get("ann", store.id).file_counts.total == 0
    work = queue.claim(30)
    assert work is not None
    assert work.task is Task.REMOVE


def test_a_deleted_file_leaves_every_store(
    stores: VectorStores, queue: VectorStoreQueue, files: Files
) -> None:
    file = new(files)
    ids = [stores.create("ann", files=[file]).id for _ in range(2)]
    files.delete("ann", file.id)
    queue.sweep()
    assert [stores.get("ann", store_id).file_counts.total for store_id in ids] == [0, 0]


def test_what_is_put_into_a_store_is_told_as_it_was_though_it_is_read_at_once(
    engine: Engine,
    stores: VectorStores,
    files: Files,
    clock: Clock,
    right_after: Callable[[Engine, Callable[[], object]], None],
) -> None:
    queue = VectorStoreQueue(open_database(), clock)

    def read() -> None:
        work = queue.claim(30)
        assert work is not None
        assert queue.complete(work, 100)

    some = [new(files) for _ in range(3)]
    right_after(engine, read)
    store = stores.create("ann", files=some[:1])
    assert store.file_counts.in_progress == 1
    right_after(engine, read)
    assert stores.files.attach("ann", store.id, some[1]).status is FileStatus.IN_PROGRESS
    right_after(engine, read)
    assert stores.files.attach_batch("ann", store.id, some[2:]).file_counts.in_progress == 1
    assert stores.get("ann", store.id).file_counts.completed == 3


def test_a_file_attached_again_with_another_cut_loses_its_old_chunks_first(
    stores: VectorStores, queue: VectorStoreQueue, files: Files
) -> None:
    file = new(files)
    store = stores.create("ann", files=[file])
    work = queue.claim(30)
    assert work is not None
    queue.complete(work, 10)
    stores.files.attach("ann", store.id, file)
    again = queue.claim(30)
    assert again is not None
    assert not again.must_purge
    queue.complete(again, 10)
    stores.files.attach("ann", store.id, NewFile(file.id, "a.md", Chunking(100, 0), {}))
    recut = queue.claim(30)
    assert recut is not None
    assert recut.must_purge
    assert recut.file.chunking == Chunking(100, 0)


def test_another_tenant_finds_nothing_by_any_name(stores: VectorStores, files: Files) -> None:
    file = new(files)
    store = stores.create("ann", files=[file])
    batch = stores.files.attach_batch("ann", store.id, [new(files)])
    calls = [
        lambda: stores.get("bob", store.id),
        lambda: stores.modify("bob", store.id, name="x"),
        lambda: stores.delete("bob", store.id),
        lambda: stores.files.get("bob", store.id, file.id),
        lambda: stores.files.list("bob", store.id),
        lambda: stores.files.detach("bob", store.id, file.id),
        lambda: stores.files.set_attributes("bob", store.id, file.id, {}),
        lambda: stores.files.attach("bob", store.id, file),
        lambda: stores.files.attach_batch("bob", store.id, [file]),
        lambda: stores.files.batch("bob", store.id, batch.id),
        lambda: stores.files.cancel_batch("bob", store.id, batch.id),
    ]
    for call in calls:
        with pytest.raises(NotFound):
            call()
    assert stores.files.found("bob", {(store.id, file.id)}) == {}
    assert stores.files.attribute_keys("bob", [store.id]) == set()
    assert stores.get("ann", store.id).file_counts.in_progress == 2
