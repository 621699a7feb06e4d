from __future__ import annotations

import tracemalloc
from collections.abc import Callable

from played_clock import Clock
from sqlalchemy.engine import Engine

from cluster.batch_queue import BatchQueue
from cluster.batch_records import BatchRequest, BatchStatus
from cluster.batches import Batches
from cluster.database import open_database

REQUEST = BatchRequest("key-1", "/v1/embeddings", "file-1", "/input", 3600)


def test_the_work_of_a_claim_grows_as_the_batches_that_wait(
    num_steps: Callable[[Engine, Callable[[], object]], int], clock: Clock
) -> None:
    engine = open_database()
    batches, queue = Batches(engine, clock), BatchQueue(engine, clock)

    def claim_among(num_more: int) -> int:
        for _ in range(num_more):
            batches.create("ann", REQUEST)
        while (validated := queue.claim(30, may_answer=False)) is not None:
            queue.begin(validated, 1, None)
        steps = num_steps(engine, lambda: queue.claim(30))
        clock.now += 30  # the lease is over: nothing is being answered
        return steps

    few, many = claim_among(40), claim_among(160)
    assert many < 10 * few  # of 5 times as many; 25 times, were each compared with each


def test_a_new_batch_is_told_as_it_was_made_though_work_on_it_begins_at_once(
    right_after: Callable[[Engine, Callable[[], object]], None],
) -> None:
    engine, queue = open_database(), BatchQueue(open_database())

    def begin() -> None:
        work = queue.claim(30)
        assert work is not None
        assert queue.begin(work, 5, "minilm")

    right_after(engine, begin)
    made = Batches(engine).create("ann", REQUEST)
    assert (made.status, made.num_rows) == (BatchStatus.VALIDATING, None)
    assert Batches(engine).get("ann", made.id).status is BatchStatus.IN_PROGRESS


def test_answers_are_read_a_few_at_a_time_as_each_may_be_large(clock: Clock) -> None:
    engine = open_database()
    queue, made = BatchQueue(engine, clock), Batches(engine, clock).create("ann", REQUEST)
    validation = queue.claim(30)
    assert validation is not None
    queue.begin(validation, 100, "minilm")
    work = queue.claim(30)
    assert work is not None
    large = "x" * 100_000
    for line in range(1, 101):
        assert queue.record(work, line, f"{line} {large}", False, (1, 0))
    tracemalloc.start()
    try:
        lines = [int(answer.split()[0]) for answer in queue.results(made.id, is_failed=False)]
        _, most_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert lines == list(range(1, 101))
    assert most_bytes < 50 * len(large)
