"""The queue of vector stores on PostgreSQL, where rows are locked one by one; SQLite's is in tests/unit/cluster."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

from sqlalchemy import delete, text
from sqlalchemy.engine import Engine

from cluster.vector_store_queue import VectorStoreQueue
from cluster.vector_store_records import STORE_FILES, Chunking, FileStatus, NewFile
from cluster.vector_stores import VectorStores


def test_workers_get_different_files_and_the_tenant_with_fewest_in_progress_comes_first(
    engine: Engine,
) -> None:
    stores, queue = VectorStores(engine), VectorStoreQueue(engine)
    for tenant, num_files in (("ann", 9), ("bob", 1)):
        names = [f"file-{tenant}-{number}" for number in range(num_files)]
        stores.create(tenant, files=[NewFile(name, "a.md", Chunking(192, 32), {}) for name in names])
    first = queue.claim(30)
    second = queue.claim(30)
    assert first is not None
    assert second is not None
    assert (first.file.tenant, second.file.tenant) == ("ann", "bob")
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: queue.claim(30), range(8)))
    claimed = [first, second, *(work for work in found if work is not None)]
    assert len({work.file.id for work in claimed}) == len(claimed) == 10
    assert queue.claim(30) is None


def _until_another_waits_for_a_lock(engine: Engine) -> None:
    deadline = time.monotonic() + 30
    with engine.connect() as connection:
        while not connection.scalar(
            text("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'")
        ):
            assert time.monotonic() < deadline
            connection.rollback()
            time.sleep(0.01)


def test_a_file_that_is_put_back_while_its_row_is_removed_is_there(engine: Engine) -> None:
    stores = VectorStores(engine)
    file = NewFile("file-1", "a.md", Chunking(192, 32), {})
    store = stores.create("ann", files=[file])
    with ThreadPoolExecutor(1) as pool:
        with engine.begin() as connection:
            connection.execute(delete(STORE_FILES).where(STORE_FILES.c.store_id == store.id))
            attached = pool.submit(stores.files.attach, "ann", store.id, file)
            _until_another_waits_for_a_lock(engine)
        assert attached.result().status is FileStatus.IN_PROGRESS
