"""`python -m training plan` with its probe, and `sweep` on real Ray Tune and Ray Train, as a user runs them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from cluster.head_record import HeadRecord
from cluster.registry import Registry

REPOSITORY = Path(__file__).parents[3]
NUM_STEPS = 4


@pytest.fixture
def config(write_bert: Callable[[Path], Path], tmp_path: Path) -> Path:
    """A tiny classifier of two words."""
    rows = [{"text": f"w{number % 2} w{number}", "label": number % 2} for number in range(40)]
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    values = {
        "name": "words",
        "task": "classification",
        "model": str(write_bert(tmp_path / "bert")),
        "data": {"path": str(data)},
        "precision": "float32",
        "batch": {"micro_batch_size_per_gpu": 4},
    }
    path = tmp_path / "words.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def training(*arguments: str) -> str:
    command = [sys.executable, "-m", "training", *arguments]
    done = subprocess.run(command, cwd=REPOSITORY, env=dict(os.environ), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    return done.stdout


def test_a_plan_is_timed_by_a_probe_without_ray(config: Path) -> None:
    plan = json.loads(training("plan", str(config), "--json"))
    assert plan["probe"]["tokens_per_s"] > 0
    assert plan["probe"]["precision"] == "float32"


@pytest.mark.soak
def test_a_sweep_runs_every_trial_and_draws_their_curves(head: HeadRecord, config: Path) -> None:
    shown = training("sweep", str(config), "learning_rate=0.1,0.001", "--steps", str(NUM_STEPS))
    [curves] = re.findall(r"^curves: (\S+)", shown, re.MULTILINE)
    folder = Path(curves).parent
    table = (folder / "sweep.txt").read_text()
    assert table.strip() in shown
    rows = table.splitlines()[1:]
    assert {row.split()[0] for row in rows} == {"learning_rate=0.1", "learning_rate=0.001"}
    losses = [float(row.split()[-1]) for row in rows]
    assert losses == sorted(losses)
    for name in ("loss.svg", "loss.png", "validation_loss.svg"):
        assert (folder / name).stat().st_size > 1000
    assert not [card for card in Registry().list() if ":words:" in card.id]  # a sweep registers nothing
