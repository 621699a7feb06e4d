"""Whole runs on a real Ray head: submitted, disturbed, and ended by a fault."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from cluster.cards import ModelCard, ModelKind
from cluster.errors import DataError, JobFailed
from cluster.head_record import HeadRecord, processes
from cluster.jobs import follow
from cluster.registry import Registry
from cluster.settings import settings
from cluster.submission import submit, submit_command
from training.checkpoints import MARKER, newest_complete
from training.fit import explain

REPOSITORY = Path(__file__).parents[3]
FAULTY_RUN = ("-m", "tests.integration.training.faulty_run")
DEADLINE_S = 400.0
NUM_KILLS = 20
EPOCHS = 8  # more steps than those of which each is told

WriteConfig = Callable[..., Path]


@pytest.fixture(scope="module")
def classification(
    tmp_path_factory: pytest.TempPathFactory, write_bert: Callable[[Path], Path]
) -> dict[str, Any]:
    """A run of two workers on 203 rows: the last step of an epoch is short."""
    folder = tmp_path_factory.mktemp("classification")
    draw = random.Random(0)
    for name, count in (("train", 203), ("validation", 31)):
        lines = ["text\tlabel"]
        for _ in range(count):
            label = draw.randrange(2)
            words = [f"w{2 * draw.randrange(40) + label}" for _ in range(draw.randint(3, 12))]
            lines.append(" ".join(words) + f"\t{('odd', 'even')[label]}")
        (folder / f"{name}.tsv").write_text("\n".join(lines))
    return {
        "task": "classification",
        "model": str(write_bert(folder / "base")),
        "data": {"path": f"{folder}/train.tsv", "validation_path": f"{folder}/validation.tsv"},
        "epochs": EPOCHS,
        "checkpoint_every_steps": 9,  # also between epochs, and between two readings of the meter
        "learning_rate": 3e-3,
        "batch": {"micro_batch_size_per_gpu": 4},
        "scaling": {"num_workers": 2, "zero_stage": 2},
        "precision": "float32",
    }


@pytest.fixture
def write_config(tmp_path: Path) -> WriteConfig:
    """`write_config(values, name="one")`: a YAML file."""

    def write(values: dict[str, Any], **changes: Any) -> Path:
        path = tmp_path / "run.yaml"
        path.write_text(yaml.safe_dump(values | changes))
        return path

    return write


def start(
    config: Path, *overrides: str, program: Sequence[str] = ("-m", "training")
) -> subprocess.Popen[str]:
    command = [sys.executable, *program, "run", str(config), *overrides]
    pipe = subprocess.PIPE
    return subprocess.Popen(
        command, cwd=REPOSITORY, env=dict(os.environ), stdout=pipe, stderr=pipe, text=True
    )


def ended(process: subprocess.Popen[str], returncode: int = 0) -> tuple[str, str]:
    """What a run has printed, on stdout and on stderr, when it has ended as expected."""
    try:
        output, errors = process.communicate(timeout=DEADLINE_S)
    finally:
        process.kill()
    assert process.returncode == returncode, errors[-3000:]
    return output, errors


def card_of(alias: str) -> ModelCard:
    return Registry().get(alias)


def events_of(run_name: str) -> list[dict[str, Any]]:
    """The events so far of the run whose folder begins with `run_name`."""
    files = list((settings().home_dir / "runs").glob(f"{run_name}-*/metrics.jsonl"))
    lines = files[0].read_text().splitlines(keepends=True) if files else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def epoch_losses(run_name: str) -> dict[int, float]:
    """Training loss of each epoch; of one that was told twice, the later one."""
    epochs = [event for event in events_of(run_name) if event["kind"] == "epoch"]
    return {event["epoch"]: event["training_loss"] for event in epochs}


def test_a_submitted_run_is_proven_and_registered_and_a_killed_worker_changes_nothing(
    head: HeadRecord, classification: dict[str, Any], write_config: WriteConfig
) -> None:
    config = write_config(classification, name="whole", output={"alias": "whole"})
    log: list[str] = []
    job = submit(submit_command(["python", "-m", "training", "run", str(config)], REPOSITORY))
    status = follow(job, write=log.append)
    text = "".join(log)
    assert status == "SUCCEEDED", text[-3000:]
    card = card_of("whole")
    _assert_told(text, card)
    _assert_reloads(card)

    disturbed = start(write_config(classification, name="disturbed", output={"alias": "disturbed"}))
    try:
        _kill_a_worker(head, "disturbed")
        output, errors = disturbed.communicate(timeout=DEADLINE_S)
    finally:
        disturbed.kill()
    assert disturbed.returncode == 0, errors[-3000:]
    assert "resumed after epoch" in output, output
    one, other = (
        load_file(Path(card_of(alias).weights_uri) / "model.safetensors") for alias in ("whole", "disturbed")
    )
    assert one.keys() == other.keys()
    assert all(weight.equal(other[name]) for name, weight in one.items())
    assert card_of("disturbed").metrics == card.metrics
    assert card_of("disturbed").trained_tokens == card.trained_tokens
    assert epoch_losses("disturbed") == epoch_losses("whole")


def _assert_told(log: str, card: ModelCard) -> None:
    """The job's log and the metrics file say what happened."""
    rows = log[log.index("Epoch  Training Loss  Validation Loss  Accuracy      F1") :].splitlines()[1:]
    epochs = [line.split()[0] for line in rows if line.split() and line.split()[0].isdigit()]
    assert epochs == [str(number) for number in range(1, EPOCHS + 1)]
    assert f"registered {card.id} (alias whole)" in log
    events = events_of("whole")
    assert [event["epoch"] for event in events if event["kind"] == "epoch"] == [*range(1, EPOCHS + 1)]
    last = [event for event in events if event["kind"] == "epoch"][-1]
    assert last["step"] == EPOCHS * 26
    (run,) = (settings().home_dir / "storage" / "runs").glob("whole-*")
    # The last step has its checkpoint though 9 does not divide it, and the one before is kept.
    assert sorted(step.name for step in run.glob("*/step-*")) == ["step-00000207", "step-00000208"]
    assert card.metrics == {"validation_loss": last["validation_loss"], **last["metrics"]}
    (folder,) = (settings().home_dir / "runs").glob("whole-*")
    report = json.loads((folder / "report.json").read_text())
    assert [one["name"] for one in report["classes"]] == ["even", "odd"]
    assert sum(one["support"] for one in report["classes"]) == 31  # each row once, of two workers
    assert report["classes"][1]["f1"] == pytest.approx(card.metrics["f1"])
    assert "| rows of / predicted as |" in log
    assert last["metrics"]["accuracy"] > 0.9, events  # it did learn


def _assert_reloads(card: ModelCard) -> None:
    assert card.kind is ModelKind.CLASSIFIER
    assert card.labels == ("even", "odd")
    assert card.parity.passed
    assert card.parity.max_metric_difference < 1e-3
    assert card.trained_tokens == EPOCHS * 203
    model, report = AutoModelForSequenceClassification.from_pretrained(
        card.weights_uri, output_loading_info=True
    )
    assert not report["missing_keys"]
    assert model.config.id2label == {0: "even", 1: "odd"}
    assert AutoTokenizer.from_pretrained(card.weights_uri).tokenize("w1 w2") == ["w1", "w2"]


def _has_checkpoint(run_name: str) -> bool:
    """Whether one is complete: the folder alone may be half written."""
    runs = (settings().home_dir / "storage" / "runs").glob(f"{run_name}*")
    return any(newest_complete(str(run))[0] for run in runs)


def _kill_a_worker(head: HeadRecord, run_name: str) -> None:
    """SIGKILL, once a checkpoint is there and epochs are left."""
    deadline = time.monotonic() + DEADLINE_S
    while not _has_checkpoint(run_name):
        assert time.monotonic() < deadline, "no checkpoint was made"
        time.sleep(0.1)
    workers = _workers(head)
    assert len(workers) == 2
    os.kill(workers[1].pid, signal.SIGKILL)
    psutil.wait_procs(workers[1:], timeout=10)


def _workers(head: HeadRecord) -> list[psutil.Process]:
    found = []
    for process in processes(head):
        with suppress(psutil.NoSuchProcess):
            if "RayTrainWorker" in " ".join(process.cmdline()):
                found.append(process)
    return found


@pytest.mark.soak  # twenty restarts, ten seconds each
@pytest.mark.timeout(1200)
def test_a_run_whose_workers_are_killed_twenty_times_ends_in_the_weights_of_an_undisturbed_one(
    head: HeadRecord, classification: dict[str, Any], write_config: WriteConfig
) -> None:
    draw = random.Random(13)
    long = {"epochs": 24, "output": {"alias": "calm"}}
    calm = start(write_config(classification, name="calm", **long))
    ended(calm)

    scaling = classification["scaling"] | {"max_failures": NUM_KILLS}
    long |= {"output": {"alias": "struck"}, "scaling": scaling}
    struck = start(write_config(classification, name="struck", **long))
    half_written = 0
    try:
        for kill in range(NUM_KILLS):
            _wait(lambda kill=kill: _num_starts("struck") > kill, struck)
            if kill % 2:
                _wait_for_a_save("struck", struck)
            else:
                time.sleep(draw.uniform(0, 1))  # the moment is the test's input
            assert struck.poll() is None, f"it ended after {kill} kills"
            worker = draw.choice(_workers(head))
            worker.kill()
            half_written += bool(_half_written("struck"))
        output, errors = struck.communicate(timeout=DEADLINE_S)
    finally:
        struck.kill()
    assert struck.returncode == 0, errors[-3000:]
    assert output.count("resumed after epoch") >= NUM_KILLS - 1
    assert half_written >= NUM_KILLS // 4
    one, other = (
        load_file(Path(card_of(alias).weights_uri) / "model.safetensors") for alias in ("calm", "struck")
    )
    assert all(weight.equal(other[name]) for name, weight in one.items())
    assert card_of("struck").metrics == card_of("calm").metrics


def _num_starts(run_name: str) -> int:
    """How often the ranks began to train, as far as a step or a notice tells."""
    events = events_of(run_name)
    texts = [event["text"] for event in events if event["kind"] == "notice"]
    restarts = sum(text.startswith(("resumed after", "restarted from")) for text in texts)
    return restarts + any(event["kind"] == "step" for event in events)


def _half_written(run_name: str) -> set[Path]:
    """Checkpoints that are not complete, of the run whose folder begins with `run_name`."""
    steps = (settings().home_dir / "storage" / "runs").glob(f"{run_name}-*/*/step-*")
    return {step for step in steps if not (step / MARKER).exists()}


def _wait_for_a_save(run_name: str, process: subprocess.Popen[str]) -> None:
    left_over = _half_written(run_name)
    _wait(lambda: bool(_half_written(run_name) - left_over), process, every_s=0.002)


def _wait(is_so: Callable[[], bool], process: subprocess.Popen[str], every_s: float = 0.05) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not is_so():
        assert process.poll() is None, "it ended before"
        assert time.monotonic() < deadline
        time.sleep(every_s)


def test_a_fault_on_one_rank_alone_ends_the_run_and_frees_its_workers(
    head: HeadRecord, classification: dict[str, Any], write_config: WriteConfig
) -> None:
    config = write_config(classification, name="lopsided")
    _, errors = ended(start(config, program=FAULTY_RUN), returncode=2)
    assert errors.strip().splitlines()[-1] == "error: worker 1 failed: ValueError: bad row 17"
    deadline = time.monotonic() + 60
    while _workers(head):
        assert time.monotonic() < deadline, "the workers are still there"
        time.sleep(0.2)


@pytest.mark.soak  # half a minute of waiting; its words are held by a unit test
def test_a_rank_that_does_not_report_its_checkpoint_is_named_and_not_waited_for(
    head: HeadRecord, classification: dict[str, Any], write_config: WriteConfig
) -> None:
    scaling = {"num_workers": 2, "zero_stage": 2, "hang_timeout_s": 30, "max_failures": 0}
    config = write_config(classification, name="silent", epochs=1, scaling=scaling)
    _, errors = ended(start(config, program=FAULTY_RUN), returncode=2)
    last_line = errors.strip().splitlines()[-1]
    assert last_line == "error: worker 0 waited 27 s for rank 1 to report a checkpoint"


@pytest.mark.soak  # half a minute of waiting; who is ended when is held by unit tests
def test_one_worker_that_hangs_is_named_and_started_again_from_its_checkpoint(
    head: HeadRecord, classification: dict[str, Any], write_config: WriteConfig
) -> None:
    scaling = {"num_workers": 1, "hang_timeout_s": 20, "max_failures": 1}
    config = write_config(classification, name="still", epochs=1, scaling=scaling)
    output, _ = ended(start(config, program=FAULTY_RUN))
    assert "the run hangs: rank 0 has not moved for 20 s (step 11, update); it is ended" in output
    assert "resumed after epoch 0 (step 9)" in output


def test_a_run_that_asks_for_more_than_there_is_says_so_and_ends(
    head: HeadRecord, classification: dict[str, Any], write_config: WriteConfig
) -> None:
    scaling = {"num_workers": 64, "use_gpu": True, "start_timeout_s": 2}
    process = start(write_config(classification, name="crowded", scaling=scaling))
    output, errors = ended(process, returncode=2)
    assert "64 workers ask for 64 CPU and 64 GPU, the cluster has" in errors.strip().splitlines()[-1]
    assert "waits for room: 64 workers ask for" in output
    assert [event["level"] for event in events_of("crowded") if "waits for room" in event["text"]] == ["warn"]


def test_a_misspelt_key_ends_the_command_with_one_line_before_anything_starts(
    classification: dict[str, Any], write_config: WriteConfig
) -> None:
    process = start(write_config(classification, name="typo"), "epoch=1")
    output, errors = ended(process, returncode=2)
    assert output == ""
    assert len(errors.splitlines()) == 1
    assert errors.startswith("error: ")
    assert "unknown key epoch; did you mean epochs?" in errors


class LostTraining(Exception):
    """In the form of Ray's: the failures by rank."""

    def __init__(self, failures: dict[int, Exception]) -> None:
        super().__init__("training failed")
        self.worker_failures = failures


def test_the_first_rank_that_failed_is_named_with_its_own_words() -> None:
    explained = explain(LostTraining({1: ValueError("bad row 17")}))
    assert isinstance(explained, JobFailed)
    assert str(explained) == "worker 1 failed: ValueError: bad row 17"


def test_an_error_of_ours_crosses_from_a_worker_unchanged() -> None:
    failure = RuntimeError("wrapped")
    failure.__cause__ = DataError("line 3: no label", "label")
    assert explain(LostTraining({0: failure})) is failure.__cause__
