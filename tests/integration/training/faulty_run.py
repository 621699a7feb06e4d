"""`python -m training`, with a fault on the last rank alone: which one, the run's name says."""

from __future__ import annotations

import os
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")  # read when Ray is imported

from cluster import cli
from training import fit
from training.__main__ import app
from training.loop_state import LoopInputs, LoopResult


def faulty_loop(inputs: LoopInputs) -> LoopResult:
    """The loop of a run, some of it replaced."""
    from training import loop

    method, replacement = {
        "lopsided": ("_run_step", _fail_at_step_3),
        "silent": ("_checkpoint", _leave_out_the_last_report),
        "still": ("_run_step", _hang_once_at_step_12),
    }[inputs.config.name]
    setattr(loop._Worker, method, replacement(getattr(loop._Worker, method)))
    return loop.train_loop(inputs)


def _fail_at_step_3(run_step: Any) -> Any:
    """Rank 0 waits for rank 1 in the exchange of step 3."""

    def run_step_or_fail(worker: Any, *arguments: Any) -> None:
        if worker._rank == 1 and worker._progress.step == 3:
            raise ValueError("bad row 17")
        run_step(worker, *arguments)

    return run_step_or_fail


def _hang_once_at_step_12(run_step: Any) -> Any:
    """In the first attempt, which leaves a file beside the export; a thread that sleeps hears no exception."""

    def run_step_or_hang(worker: Any, *arguments: Any) -> None:
        seen = Path(f"{worker._inputs.export_uri}.seen")
        if worker._progress.step == 12 and not seen.exists():
            seen.parent.mkdir(parents=True, exist_ok=True)
            seen.touch()
            time.sleep(3600)
        run_step(worker, *arguments)

    return run_step_or_hang


def _leave_out_the_last_report(checkpoint: Any) -> Any:
    """Rank 0 waits for rank 1 to report its checkpoint, and rank 1 for rank 0 in the exchange behind it."""

    def checkpoint_unreported(worker: Any) -> None:
        is_left_out = worker._rank == 1 and worker.is_finished
        with patch("ray.train.report") if is_left_out else nullcontext():
            checkpoint(worker)

    return checkpoint_unreported


if __name__ == "__main__":
    fit.train_loop = faulty_loop
    cli.run(app)
