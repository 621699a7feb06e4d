from __future__ import annotations

from types import SimpleNamespace

import pytest

from cluster.launcher import Run, RunState
from cluster.ray_launcher import RayLauncher

HEAD = "Job entrypoint command failed with exit code 3, last available logs (truncated to 20,000 chars):"
RAYS = "Running entrypoint for job ftjob-1: python -m training run"


@pytest.mark.parametrize("log", [f"{RAYS}\nerror: no data\n", f"error: no data\n{RAYS}\n"])
def test_the_last_words_of_a_job_are_its_own_wherever_ray_puts_its_line(log: str) -> None:
    job = SimpleNamespace(status="FAILED", driver_exit_code=3, message=f"{HEAD}\n{log}")
    launcher = RayLauncher(SimpleNamespace(get_job_info=lambda _: job))
    assert launcher.look("ftjob-1") == Run(RunState.ENDED, 3, "error: no data")
