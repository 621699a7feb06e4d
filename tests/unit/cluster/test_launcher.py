"""Commands that are started once, whoever asks and whatever dies."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import yaml

from cluster.errors import Unavailable
from cluster.head_process import logical_cpus
from cluster.launcher import LocalLauncher, Run, RunState
from cluster.local_run import PID
from cluster.ray_launcher import RayLauncher
from serving.config import DeploymentConfig, ServingConfig

EXAMPLE = Path(__file__).parents[3] / "examples" / "serve.yaml"
SLEEP = (sys.executable, "-c", "import time; time.sleep(60)")


@pytest.fixture
def launcher(tmp_path: Path) -> LocalLauncher:
    return LocalLauncher(tmp_path)


def _until(check: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _starter(folder: Path) -> psutil.Process:
    """The process that starts the command, once it has: killed before that, it leaves nothing that runs."""
    _until(lambda: (folder / PID).exists() and bool((folder / PID).read_text()))
    starter = psutil.Process(int((folder / PID).read_text()))
    _until(lambda: bool(starter.children()))
    return starter


def _ended(launcher: LocalLauncher, name: str) -> Run:
    _until(lambda: launcher.look(name).state is RunState.ENDED)
    return launcher.look(name)


def test_a_command_leaves_its_exit_code_and_last_words(launcher: LocalLauncher) -> None:
    assert launcher.look("job-1") == Run(RunState.ABSENT)
    launcher.start("job-1", [sys.executable, "-c", "print('begun'); raise SystemExit('error: no data')"])
    assert _ended(launcher, "job-1") == Run(RunState.ENDED, 1, "error: no data")


def test_a_command_that_this_machine_cannot_start_now_may_be_started_later(
    launcher: LocalLauncher, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_memory(*_: object, **__: object) -> None:
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    monkeypatch.setattr(subprocess, "Popen", no_memory)
    with pytest.raises(Unavailable, match=r"job-1 cannot be started \(Cannot allocate memory\)"):
        launcher.start("job-1", SLEEP)
    monkeypatch.undo()
    assert launcher.look("job-1").state is RunState.ABSENT


def test_a_name_is_started_once_also_by_another_process(launcher: LocalLauncher, tmp_path: Path) -> None:
    command = [sys.executable, "-c", f"open({str(tmp_path / 'starts')!r}, 'a').write('x')"]
    launcher.start("job-1", command)
    _ended(launcher, "job-1")
    launcher.start("job-1", command)
    LocalLauncher(tmp_path).start("job-1", command)
    # Past the look that a launcher takes: two who start at the same moment.
    code = subprocess.call([sys.executable, "-m", "cluster.local_run", str(tmp_path / "job-1"), *command])
    assert code == 0
    assert (tmp_path / "starts").read_text() == "x"


def test_a_run_is_stopped_and_seen_to_end_by_whoever_looks(launcher: LocalLauncher, tmp_path: Path) -> None:
    launcher.start("job-1", SLEEP)
    other = LocalLauncher(tmp_path)
    assert other.look("job-1").state is RunState.RUNNING
    _starter(tmp_path / "job-1")
    other.stop("job-1")
    other.stop("job-1")  # asked again, it is left its time
    assert _ended(launcher, "job-1").exit_code is None
    other.stop("job-1")


def test_a_run_that_is_killed_has_ended_without_an_exit_code(launcher: LocalLauncher, tmp_path: Path) -> None:
    launcher.start("job-1", SLEEP)
    os.killpg(_starter(tmp_path / "job-1").pid, signal.SIGKILL)
    assert _ended(launcher, "job-1").exit_code is None


def test_a_run_whose_starter_alone_is_killed_still_runs(launcher: LocalLauncher, tmp_path: Path) -> None:
    launcher.start("job-1", SLEEP)
    _starter(tmp_path / "job-1").kill()
    time.sleep(0.1)
    assert launcher.look("job-1").state is RunState.RUNNING
    launcher.stop("job-1")
    _ended(launcher, "job-1")


class JobsApi:
    """The part of Ray's jobs client that the launcher uses, with one job at most."""

    def __init__(self) -> None:
        self.job: dict[str, object] | None = None
        self.num_submitted = 0
        self.away = False

    def submit_job(
        self, *, entrypoint: str, submission_id: str, runtime_env: object, entrypoint_num_cpus: float = 0
    ) -> None:
        if self.job is not None:
            raise RuntimeError(f"Job with submission_id {submission_id} already exists.")
        self.num_submitted += 1
        self.job = {"status": "RUNNING", "message": "", "driver_exit_code": None, "entrypoint": entrypoint}
        self.num_cpus = entrypoint_num_cpus

    def get_job_info(self, name: str) -> object:
        if self.away:
            raise ConnectionError("no answer")
        if self.job is None:
            raise RuntimeError(f"Job {name} does not exist")
        return type("Info", (), self.job)

    def stop_job(self, _name: str) -> None:
        assert self.job is not None
        self.job["status"] = "STOPPED"


def test_ray_jobs_are_told_as_local_runs_are() -> None:
    api = JobsApi()
    launcher = RayLauncher(api, runtime_env={})
    assert launcher.look("job-1") == Run(RunState.ABSENT)
    launcher.start("job-1", ["python", "-m", "training", "run", "a b.yaml"])
    launcher.start("job-1", ["python"])
    assert api.num_submitted == 1
    assert api.job is not None
    assert api.job["entrypoint"] == "python -m training run 'a b.yaml'"
    assert launcher.look("job-1").state is RunState.RUNNING
    tail = "exit code 1, last available logs (truncated to 20,000 chars):\nepoch 1\nerror: the loss is not a number\n"
    api.job |= {
        "status": "FAILED",
        "driver_exit_code": 1,
        "message": f"Job entrypoint command failed with {tail}",
    }
    assert launcher.look("job-1") == Run(RunState.ENDED, 1, "error: the loss is not a number")
    api.job |= {"driver_exit_code": None, "message": "Job supervisor actor died: its node was lost"}
    assert launcher.look("job-1") == Run(RunState.ENDED, None, "Job supervisor actor died: its node was lost")
    api.job |= {
        "message": "runtime_env setup failed: Failed to set up.\nERROR: No matching distribution for x\n"
    }
    assert launcher.look("job-1") == Run(RunState.ENDED, 1, "ERROR: No matching distribution for x")


def test_a_ray_that_does_not_answer_is_not_a_job_that_is_gone() -> None:
    api = JobsApi()
    api.away = True
    with pytest.raises(Unavailable, match="does not answer: no answer"):
        RayLauncher(api, runtime_env={}).look("job-1")


def test_a_ray_job_is_not_kept_on_the_head_and_fits_beside_serving_and_training_on_a_laptop() -> None:
    api = JobsApi()
    RayLauncher(api, runtime_env={}).start("job-1", ["python"])
    [application] = yaml.safe_load(EXAMPLE.read_text())["applications"]
    parts = vars(ServingConfig.model_validate(application["args"])).values()
    serving = sum(part.num_cpus for part in parts if isinstance(part, DeploymentConfig))
    assert api.num_cpus > 0  # Ray keeps a job on the head that asks for nothing
    # A job with three workers, and an evaluation.
    assert round(serving + 3 + 2 * api.num_cpus, 4) <= logical_cpus(None, cores=1)
