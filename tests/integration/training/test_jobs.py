"""A fine-tuning job's run on a real Ray head: paused, its driver killed, begun again by the same command."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file
from transformers import AutoTokenizer

from cluster.cards import ModelCard
from cluster.fine_tuning_jobs import FineTuningJobs
from cluster.fine_tuning_records import JobRequest, JobStatus
from cluster.head_record import HeadRecord
from cluster.registry import Registry
from cluster.settings import settings
from training.checkpoints import newest_complete

REPOSITORY = Path(__file__).parents[3]
DEADLINE_S = 150.0
EPOCHS, STEPS_PER_EPOCH = 6, 20

TEMPLATE = (
    "{% for m in messages %}{{ m.role + ' ' + m.content + ' [SEP] ' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant ' }}{% endif %}"
)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory, write_llama: Callable[[Path], Path]) -> Path:
    """LoRA with dropout on 160 chats of one answer each, on one worker."""
    folder = tmp_path_factory.mktemp("chats")
    base = write_llama(folder / "base")
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(base)
    draw = random.Random(0)
    for name, count in (("train", 8 * STEPS_PER_EPOCH), ("validation", 16)):
        lines = []
        for _ in range(count):
            number = draw.randrange(40)
            messages = [
                {"role": "user", "content": f"w{number} w{draw.randrange(40)}"},
                {"role": "assistant", "content": f"w{number + 50}"},
            ]
            lines.append(json.dumps({"messages": messages}))
        (folder / f"{name}.jsonl").write_text("\n".join(lines))
    values = {
        "name": "chats",
        "task": "sft",
        "method": "lora",
        "model": str(base),
        "data": {"path": f"{folder}/train.jsonl", "validation_path": f"{folder}/validation.jsonl"},
        "epochs": EPOCHS,
        "learning_rate": 1e-2,
        "lora": {"rank": 4, "dropout": 0.1},
        "batch": {"micro_batch_size_per_gpu": 8},
        "precision": "float32",
        "max_length_tokens": 32,
    }
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def new_job(jobs: FineTuningJobs) -> str:
    job = jobs.create("default", JobRequest("tiny", "file-1", None, {}, {}, None, 1, None, {}))
    jobs.queue.add(job.id, {})
    jobs.queue.start(job.id, 0)
    return job.id


class Driver:
    """`python -m training run CONFIG --job ID`, ended by us if the test does not."""

    def __init__(self, config: Path, job_id: str) -> None:
        command = [sys.executable, "-m", "training", "run", str(config), "--job", job_id]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(
            command, cwd=REPOSITORY, env=dict(os.environ), stdout=pipe, stderr=pipe, text=True
        )

    def end(self) -> tuple[int, str]:
        output, errors = self.process.communicate(timeout=DEADLINE_S)
        return self.process.returncode, output + errors


@pytest.fixture
def drive(config: Path) -> Iterator[Callable[[str], Driver]]:
    drivers: list[Driver] = []

    def start(job_id: str) -> Driver:
        drivers.append(Driver(config, job_id))
        return drivers[-1]

    yield start
    for driver in drivers:
        driver.process.kill()


def wait_for_checkpoint(job_id: str, step: int) -> None:
    """Until one of at least `step` steps is complete in storage."""
    run = str(settings().home_dir / "storage" / "runs" / job_id)
    deadline = time.monotonic() + DEADLINE_S
    while True:
        found, _ = newest_complete(run)
        if found is not None and found.marker.step >= step:
            return
        assert time.monotonic() < deadline, f"no checkpoint of step {step} was made"
        time.sleep(0.05)


def weights_of(card: ModelCard) -> dict[str, Any]:
    return dict(load_file(Path(card.weights_uri) / "adapter_model.safetensors"))


@pytest.mark.soak
def test_a_job_that_was_paused_and_whose_driver_was_killed_ends_as_an_undisturbed_one(
    head: HeadRecord, drive: Callable[[str], Driver]
) -> None:
    jobs = FineTuningJobs()
    undisturbed, disturbed = new_job(jobs), new_job(jobs)
    status, output = drive(undisturbed).end()
    assert status == 0, output[-3000:]

    paused = drive(disturbed)
    wait_for_checkpoint(disturbed, STEPS_PER_EPOCH)
    paused.process.send_signal(signal.SIGTERM)
    status, output = paused.end()
    assert status == 143, output[-3000:]
    assert "paused at step" in output
    assert f"--job {disturbed}" in output
    assert jobs.get("default", disturbed).status is JobStatus.RUNNING  # whose pause it was says so

    killed = drive(disturbed)
    before, _ = newest_complete(str(settings().home_dir / "storage" / "runs" / disturbed))
    assert before is not None
    wait_for_checkpoint(disturbed, before.marker.step + 1)
    killed.process.kill()
    killed.end()

    status, output = drive(disturbed).end()
    assert status == 0, output[-3000:]
    assert "resumed after epoch" in output
    cards = [
        Registry().get(jobs.get("default", job_id).fine_tuned_model) for job_id in (undisturbed, disturbed)
    ]
    one, other = map(weights_of, cards)
    assert one.keys() == other.keys()
    assert all(weight.equal(other[name]) for name, weight in one.items())
    assert cards[0].metrics == cards[1].metrics
    _assert_recorded(jobs, disturbed, cards[1])


def _assert_recorded(jobs: FineTuningJobs, job_id: str, card: ModelCard) -> None:
    """The job's record: its end, a checkpoint of every epoch, each once and each a model of its own."""
    job = jobs.get("default", job_id)
    assert job.status is JobStatus.SUCCEEDED
    assert job.trained_tokens == card.trained_tokens > 0
    assert card.id == f"ft:base:hamlet:tuned:{job_id[-8:]}"
    checkpoints = jobs.checkpoints("default", job_id, limit=50).data
    steps = [STEPS_PER_EPOCH * epoch for epoch in range(1, EPOCHS + 1)]
    assert sorted(checkpoint.step for checkpoint in checkpoints) == steps
    for checkpoint in checkpoints:
        assert checkpoint.model_id == f"{card.id}:ckpt-step-{checkpoint.step}"
        assert Registry().get(checkpoint.model_id).is_adapter
    last = Registry().get(f"{card.id}:ckpt-step-{steps[-1]}")
    assert all(weight.equal(weights_of(card)[name]) for name, weight in weights_of(last).items())
    messages = [event.message for event in jobs.events("default", job_id, limit=100).data]
    assert any("resumed after epoch" in message for message in messages)


def test_a_fault_of_the_input_ends_the_job_with_its_message(
    head: HeadRecord, config: Path, tmp_path: Path
) -> None:
    jobs = FineTuningJobs()
    job_id = new_job(jobs)
    broken = tmp_path / "broken.yaml"
    broken.write_text(yaml.safe_dump(yaml.safe_load(config.read_text()) | {"max_length_tokens": 2}))
    status, output = Driver(broken, job_id).end()
    assert status == 2, output
    job = jobs.get("default", job_id)
    assert job.status is JobStatus.FAILED
    assert job.error is not None
    assert job.error["param"] == "max_length_tokens"
    assert job.error["message"] in output
