"""Upload, tune, ask: a script for the hosted API, unchanged, against real routers whose training is scripted.

Routers are processes over a real database, and are killed as crashes would; test_kills.py kills more.
"""

from __future__ import annotations

import json
import random
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import openai
import pytest
from routers import ROWS, Router, ended, until

from cluster.fine_tuning_jobs import FineTuningJobs
from cluster.fine_tuning_records import Process
from cluster.registry import Registry


def test_a_script_for_the_hosted_api_runs_unchanged(routers: Callable[..., Router]) -> None:
    client = routers().client
    training = client.files.create(file=("rows.jsonl", ROWS), purpose="fine-tune")
    held_out = client.files.create(file=("held-out.jsonl", ROWS), purpose="fine-tune")
    assert client.files.content(training.id).read() == ROWS
    job = client.fine_tuning.jobs.create(
        model="smollm2",
        training_file=training.id,
        validation_file=held_out.id,
        suffix="My Handbook",
        seed=1,
        method={"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 2}}},
        metadata={"team": "docs"},
    )
    done = ended(client, job.id)
    assert (done.status, done.hyperparameters.n_epochs, done.trained_tokens) == ("succeeded", 2, 30)
    assert done.fine_tuned_model.startswith("ft:smollm2:hamlet:my-handbook:")
    events = list(client.fine_tuning.jobs.list_events(job.id, limit=2))  # over all pages
    assert events[-1].message == f"Created fine-tuning job: {job.id}"
    assert len({event.id for event in events}) == len(events) >= 8
    [checkpoint] = client.fine_tuning.jobs.checkpoints.list(job.id).data
    results = client.files.content(done.result_files[0]).text.splitlines()
    assert results[0] == "step,total_steps,train_loss,valid_loss"
    assert len(results) == 4
    for model in (done.fine_tuned_model, checkpoint.fine_tuned_model_checkpoint):
        answer = client.chat.completions.create(model=model, messages=[{"role": "user", "content": "q1"}])
        assert answer.choices[0].message.content
    assert client.models.delete(done.fine_tuned_model).deleted
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(
            model=done.fine_tuned_model, messages=[{"role": "user", "content": "q"}]
        )
    assert client.files.delete(training.id).deleted


def test_runs_that_fail_are_lost_or_stopped_each_end_truthfully(
    routers: Callable[..., Router], home: Path
) -> None:
    client = routers().client
    file = client.files.create(file=("rows.jsonl", ROWS), purpose="fine-tune").id

    def create(suffix: str) -> str:
        return client.fine_tuning.jobs.create(model="smollm2", training_file=file, suffix=suffix).id

    slow = create("slow")
    until(lambda: client.fine_tuning.jobs.retrieve(slow).status == "running")
    assert client.fine_tuning.jobs.pause(slow).status == "paused"
    failed, lost, refused = create("fails"), create("killed-once"), create("too-large")
    assert ended(client, failed).error.code == "diverged"
    assert ended(client, lost).status == "succeeded"
    assert "80 GiB" in ended(client, refused).error.message
    assert client.fine_tuning.jobs.resume(slow).status == "queued"
    until(lambda: client.fine_tuning.jobs.retrieve(slow).status == "running")
    assert client.fine_tuning.jobs.cancel(slow).status == "cancelled"
    assert client.fine_tuning.jobs.cancel(slow).status == "cancelled"
    # Its process ends too, also one that was about to be started.
    until(lambda: FineTuningJobs().get("default", slow).process is Process.NONE)
    assert not (home / "doubles").exists()


def _ask(client: openai.OpenAI, files: set[str], jobs: set[str]) -> None:
    """Upload a file and create two jobs, noting what is acknowledged."""
    file = client.files.create(file=("rows.jsonl", ROWS), purpose="fine-tune")
    files.add(file.id)
    for suffix in ("ok", "killed-once"):
        jobs.add(client.fine_tuning.jobs.create(model="smollm2", training_file=file.id, suffix=suffix).id)


def _acknowledged_over_kills(routers: list[Router], rounds: int, seed: int) -> tuple[set[str], set[str]]:
    """Files and jobs that were acknowledged while routers were killed at random moments."""
    chance = random.Random(seed)
    files: set[str] = set()
    jobs: set[str] = set()
    started = time.monotonic()
    _ask(routers[0].client, files, jobs)
    undisturbed_s = time.monotonic() - started
    for number in range(rounds):
        victim = routers[number % len(routers)]
        assert victim.process is not None
        # Killed by another process, so that it may happen within a request, on a slow machine as on a fast one.
        wait_s = chance.uniform(0, 1.5 * undisturbed_s)
        killer = subprocess.Popen(["sh", "-c", f"sleep {wait_s:.2f}; kill -9 {victim.process.pid}"])
        with suppress(openai.APIConnectionError):  # what was not acknowledged may be there, or not
            _ask(victim.client, files, jobs)
        killer.wait()
        victim.kill()
        victim.start()
    return files, jobs


def _check(client: openai.OpenAI, home: Path, files: set[str], jobs: set[str]) -> None:
    assert files
    assert {file.id for file in client.files.list()} >= files
    for file in files:
        assert client.files.content(file).read() == ROWS
    listed = {job.id for job in client.fine_tuning.jobs.list()}
    assert listed >= jobs
    jobs_ended = [ended(client, job_id) for job_id in listed]
    models = {model.id for model in client.models.list()}
    for job in jobs_ended:
        assert job.status == "succeeded", job.error
        assert job.fine_tuned_model in models
        assert len(job.result_files) == 1
    assert not (home / "doubles").exists(), "a job ran twice at a time"
    assert len([model for model in models if model.startswith("ft:") and "ckpt" not in model]) == len(listed)


def test_a_router_that_is_killed_at_any_moment_loses_nothing_it_acknowledged(
    routers: Callable[..., Router], home: Path
) -> None:
    router = routers()
    files, jobs = _acknowledged_over_kills([router], rounds=2, seed=1)
    _check(router.client, home, files, jobs)
    assert Registry().list()


@pytest.mark.soak
@pytest.mark.parametrize("num_routers", [1, 2])
def test_batches_go_on_after_kills_and_answer_no_row_twice(
    routers: Callable[..., Router], postgres: str, num_routers: int
) -> None:
    """A killed router's lease holds for 15 s, which is what takes the time here."""
    database = {"HAMLET_DATABASE_URL": postgres} if num_routers > 1 else {}
    alive, chance = [routers(**database) for _ in range(num_routers)], random.Random(3)
    made = [_embedding_batch(alive[0].client, 2000) for _ in range(2)]
    num_done = num_kills = 0
    deadline = time.monotonic() + 270
    while True:
        victim = alive[num_kills % num_routers]
        seen = [victim.client.batches.retrieve(name) for name in made]
        if all(batch.completed_at for batch in seen):
            break
        assert time.monotonic() < deadline, "it has not happened in time"
        now_done = sum(batch.request_counts.completed for batch in seen)
        assert now_done >= num_done, "an answer was lost"
        if now_done > num_done and num_kills < 5:  # it is at work
            time.sleep(chance.uniform(0, 2))
            victim.kill()
            victim.start()
            num_kills += 1
        num_done = now_done
        time.sleep(0.2)
    assert num_kills >= 2
    for batch in seen:
        assert (batch.status, batch.request_counts.completed, batch.error_file_id) == (
            "completed",
            2000,
            None,
        )
        lines = victim.client.files.content(batch.output_file_id).text.splitlines()
        assert [json.loads(line)["custom_id"] for line in lines] == [str(number) for number in range(2000)]
    assert len(list(victim.client.files.list(purpose="batch_output"))) == 2


def _embedding_batch(client: openai.OpenAI, num_rows: int) -> str:
    rows = [
        {
            "custom_id": str(n),
            "method": "POST",
            "url": "/v1/embeddings",
            "body": {"model": "minilm", "input": f"{n}"},
        }
        for n in range(num_rows)
    ]
    content = "\n".join(json.dumps(row) for row in rows).encode()
    file = client.files.create(file=("rows.jsonl", content), purpose="batch")
    batch = client.batches.create(input_file_id=file.id, endpoint="/v1/embeddings", completion_window="24h")
    return batch.id
