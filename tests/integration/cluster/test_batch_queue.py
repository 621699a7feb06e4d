"""The queue of batches on PostgreSQL, where rows are locked one by one; SQLite's is in tests/unit/serving."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

from sqlalchemy.engine import Engine

from cluster.batch_queue import BatchQueue, Task, Work
from cluster.batch_records import BatchRequest, BatchStatus
from cluster.batches import Batches
from cluster.files import Files

REQUEST = BatchRequest("key-1", "/v1/embeddings", "file-1", "/input", 3600)


def claimed(queue: BatchQueue, task: Task) -> Work:
    work = queue.claim(30, may_answer=task is Task.ANSWER)
    assert work is not None
    assert work.task is task
    return work


def test_one_of_many_workers_has_a_batch_and_a_row_one_answer(engine: Engine) -> None:
    batches, queue, files = Batches(engine), BatchQueue(engine), Files(engine)
    made = batches.create("ann", REQUEST)
    other = batches.create("ann", REQUEST)
    assert queue.begin(claimed(queue, Task.VALIDATE), 3, "minilm")
    assert queue.begin(claimed(queue, Task.VALIDATE), 3, None)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: queue.claim(30), range(8)))
    (work,) = [work for work in found if work is not None]
    assert queue.claim(30) is None
    queue.release(work)
    later = claimed(queue, Task.ANSWER)
    assert later.batch.id == made.id
    assert not queue.record(work, 1, "late", False, (1, 1))
    answers = [
        threading.Thread(target=queue.record, args=(later, line, f"answer {line}", line == 2, (5, 2)))
        for line in (1, 2, 3)
    ]
    for thread in answers:
        thread.start()
    for thread in answers:
        thread.join()
    counted = batches.get("ann", made.id)
    assert (counted.num_completed, counted.num_failed, counted.num_prompt_tokens) == (2, 1, 15)
    assert queue.answered(made.id) == {1, 2, 3}
    assert list(queue.results(made.id, is_failed=False)) == ["answer 1", "answer 3"]
    assert queue.finalize(later)
    closing = claimed(queue, Task.CLOSE)
    output = files.stored("ann", "output.jsonl", "batch_output", b"{}")
    assert queue.end(closing, BatchStatus.COMPLETED, output)
    assert not queue.end(closing, BatchStatus.COMPLETED, output)
    assert files.get("ann", output.id) == output
    assert queue.answered(made.id) == set()
    assert batches.get("ann", made.id).output_file == output.id
    assert batches.cancel("ann", other.id).status is BatchStatus.CANCELLING
    assert claimed(queue, Task.CLOSE).batch.id == other.id
