"""`python -m training`, with a fault at step 3 on rank 1 alone."""

from __future__ import annotations

import os
from typing import Any

os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")  # read when Ray is imported

from cluster import cli
from training import fit
from training.__main__ import app
from training.loop_state import LoopInputs, LoopResult


def faulty_loop(inputs: LoopInputs) -> LoopResult:
    """The loop of a run; rank 0 waits for rank 1 in the exchange of step 3."""
    from training import loop

    run_step = loop._Worker._run_step

    def run_step_or_fail(worker: Any, *arguments: Any) -> None:
        if worker._rank == 1 and worker._progress.step == 3:
            raise ValueError("bad row 17")
        run_step(worker, *arguments)

    loop._Worker._run_step = run_step_or_fail  # type: ignore[method-assign]
    return loop.train_loop(inputs)


if __name__ == "__main__":
    fit.train_loop = faulty_loop
    cli.run(app)
