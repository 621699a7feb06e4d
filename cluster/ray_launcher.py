"""Commands as Ray jobs: they run on the cluster, outlive their router, and Ray knows them by name."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Any

from cluster.errors import Unavailable
from cluster.jobs import FIRST_LINE, OUT_OF_REACH, TERMINAL, job_client
from cluster.last_words import last_line
from cluster.launcher import Run, RunState

KEPT_RUNTIME_ENV = ("working_dir", "py_modules", "env_vars", "pip", "uv", "conda", "image_uri")
# How Ray begins its message where the packages of a job cannot be installed, or its files not be fetched.
SETUP_FAILED = "runtime_env setup failed"
# Without any, Ray runs a job's own process on the head, even one that is given no CPUs: in a pod, data would be
# tokenised in the head's few GiB. So little that it always fits beside serving and training on a laptop's 4.
COMMAND_CPUS = 0.01


class RayLauncher:
    """A launcher over Ray's jobs API, in the runtime environment of the process that it belongs to."""

    def __init__(self, client: Any = None, runtime_env: dict[str, Any] | None = None) -> None:
        self._client = client
        self._runtime_env = runtime_env

    def start(self, name: str, command: Sequence[str]) -> None:
        if self.look(name).state is not RunState.ABSENT:
            return
        try:
            self._jobs().submit_job(
                entrypoint=shlex.join(command),
                submission_id=name,
                runtime_env=self._environment(),
                entrypoint_num_cpus=COMMAND_CPUS,
            )
        except OUT_OF_REACH as exc:
            # Ray refuses a name it knows: another process was faster, which is as good.
            if "already exists" not in str(exc):
                raise Unavailable(f"Ray did not take the job {name}: {_first_line(exc)}") from exc

    def look(self, name: str) -> Run:
        try:
            job = self._jobs().get_job_info(name)
        except OUT_OF_REACH as exc:
            if "does not exist" in str(exc):
                return Run(RunState.ABSENT)
            raise Unavailable(f"Ray's jobs API does not answer: {_first_line(exc)}") from exc
        if str(job.status) not in TERMINAL:
            return Run(RunState.RUNNING)
        message = job.message or ""
        code = job.driver_exit_code if str(job.status) != "SUCCEEDED" else 0
        # Nothing was started, and nothing was killed: the same environment would fail again.
        if message.startswith(SETUP_FAILED):
            code = 1
        # It ends with the last lines of the log, which itself may be long, and is looked for every second.
        told = "\n".join(line for line in message.splitlines() if not line.startswith(FIRST_LINE))
        return Run(RunState.ENDED, code, last_line(told, ""))

    def stop(self, name: str) -> None:
        try:
            self._jobs().stop_job(name)
        except OUT_OF_REACH as exc:
            if "does not exist" not in str(exc):
                raise Unavailable(f"Ray's jobs API does not answer: {_first_line(exc)}") from exc

    def _jobs(self) -> Any:
        if self._client is None:
            self._client = job_client()
        return self._client

    def _environment(self) -> dict[str, Any]:
        """Ours, so that a job has the code and settings of the application that starts it."""
        if self._runtime_env is None:
            import ray

            ours = ray.get_runtime_context().runtime_env if ray.is_initialized() else {}
            self._runtime_env = {key: ours[key] for key in KEPT_RUNTIME_ENV if ours.get(key)}
        return self._runtime_env


def _first_line(exc: BaseException) -> str:
    return next((line.strip() for line in str(exc).splitlines() if line.strip()), exc.__class__.__name__)
