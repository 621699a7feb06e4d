"""The launcher of Ray jobs on a real head."""

from __future__ import annotations

import time

from cluster.head_record import HeadRecord
from cluster.launcher import Run, RunState
from cluster.ray_launcher import RayLauncher


def _ended(launcher: RayLauncher, name: str) -> Run:
    deadline = time.monotonic() + 60
    while (run := launcher.look(name)).state is not RunState.ENDED:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    return run


def test_a_job_is_started_once_by_name_and_its_end_is_told(head: HeadRecord) -> None:
    launcher = RayLauncher(runtime_env={})
    assert launcher.look("ftjob-0-1") == Run(RunState.ABSENT)
    command = ["python", "-c", "import sys; print('error: no data'); sys.exit(3)"]
    launcher.start("ftjob-0-1", command)
    launcher.start("ftjob-0-1", command)
    RayLauncher(runtime_env={}).start("ftjob-0-1", command)  # another router
    assert _ended(launcher, "ftjob-0-1") == Run(RunState.ENDED, 3, "error: no data")


def test_a_job_that_is_stopped_ends(head: HeadRecord) -> None:
    launcher = RayLauncher(runtime_env={})
    launcher.start("ftjob-0-2", ["sleep", "600"])
    assert launcher.look("ftjob-0-2").state is RunState.RUNNING
    launcher.stop("ftjob-0-2")
    assert _ended(launcher, "ftjob-0-2").state is RunState.ENDED
    launcher.stop("ftjob-0-2")
