"""What a tenant may have, counted on PostgreSQL while several processes add to it; on SQLite writers take turns."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

from sqlalchemy.engine import Engine

from cluster.batch_records import BatchRequest
from cluster.batches import Batches
from cluster.errors import Overloaded
from cluster.files import Files
from cluster.fine_tuning_jobs import FineTuningJobs
from cluster.fine_tuning_records import JobRequest

JOB = JobRequest("smollm2", "file-1", None, {}, {}, None, 1, None, {})
BATCH = BatchRequest("key-1", "/v1/embeddings", "file-1", "/input", 3600)
NUM_AT_ONCE = 8


def added_at_once(add: Callable[[], object]) -> int:
    """How many of NUM_AT_ONCE calls at a time were let in."""
    begin = Barrier(NUM_AT_ONCE)

    def attempt(_: int) -> bool:
        begin.wait(10)
        try:
            add()
        except Overloaded:
            return False
        return True

    with ThreadPoolExecutor(NUM_AT_ONCE) as pool:
        return sum(pool.map(attempt, range(NUM_AT_ONCE)))


def test_who_adds_at_once_gets_no_more_than_a_tenant_may_have(engine: Engine) -> None:
    jobs, batches, files = FineTuningJobs(engine), Batches(engine), Files(engine)
    assert added_at_once(lambda: jobs.create("ann", JOB, max_active=3)) == 3
    assert added_at_once(lambda: batches.create("ann", BATCH, max_active=3)) == 3
    stored = iter([files.stored("ann", "rows.txt", "user_data", b"row") for _ in range(NUM_AT_ONCE)])
    assert added_at_once(lambda: files.add(next(stored), max_bytes=10)) == 3
    assert len(files.list("ann").data) == 3
