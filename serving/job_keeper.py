"""Carries fine-tuning jobs from their creation to their end: checks, starts, watches, stops, tries again.

Each step is decided in `job_policy` and made by compare-and-set in `FineTuningJobs`, so that a keeper that is
killed between any two of them, or is one too many, loses no job and runs none twice.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

import yaml
from sqlalchemy.exc import SQLAlchemyError

from cluster.blobs import place_bytes
from cluster.errors import HamletError, InvalidInput, Unavailable
from cluster.files import Files
from cluster.fine_tuning_jobs import FineTuningJobs
from cluster.fine_tuning_records import FineTuningJob, Process, QueuedJob
from cluster.launcher import Launcher
from cluster.storage import storage_uri
from serving.config import FineTuningConfig
from serving.finetune_config import named
from serving.job_policy import Step, next_step, reason_of, reason_to_wait, startable
from serving.training_commands import TrainingCommands

log = logging.getLogger(__name__)

Job = TypeVar("Job", FineTuningJob, QueuedJob)

TRAINING = ("python", "-m", "training")

# A check that took too long, or was killed for want of memory, is made again after the first, and given up when the
# job is as old as the second.
CHECK_AGAIN_S, CHECK_LIMIT_S = 30.0, 3600.0


class JobKeeper:
    """The work on all jobs, in two rounds: `validate` takes its time, `keep` does not."""

    def __init__(
        self,
        jobs: FineTuningJobs,
        files: Files,
        launcher: Launcher,
        commands: TrainingCommands,
        config: FineTuningConfig,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._jobs = jobs
        self._files = files
        self._launcher = launcher
        self._commands = commands
        self._config = config
        self._clock = clock
        self._check_again_at: dict[str, float] = {}

    def validate(self) -> None:
        """Check each new job by planning it: then it is queued, or has failed with what is wrong."""
        for job in self._jobs.queue.unchecked():
            if self._clock() >= self._check_again_at.get(job.id, 0.0):
                self._for(job, self._check)

    def keep(self) -> None:
        """One round over all jobs that have begun or may begin."""
        for job in self._jobs.queue.busy():
            self._for(job, self._follow)
        for waiting in self._startable():
            self._for(waiting, self._begin)
        busy = self._jobs.queue.busy()
        for waiting in self._jobs.queue.waiting():
            self._for(waiting, lambda job: self._await_turn(job, busy))

    def _for(self, job: Job, work: Callable[[Job], None]) -> None:
        """What goes wrong with one job holds up no other; the next round tries again."""
        try:
            work(job)
        except HamletError as exc:
            log.warning("fine-tuning job %s: %s", job.id, exc)
        except SQLAlchemyError:
            raise  # so it would be with all
        except Exception:
            log.exception("fine-tuning job %s", job.id)

    def _check(self, job: FineTuningJob) -> None:
        try:
            self._require_files(job)
            # Without a probe: that would load the model into the router's machine.
            plan = self._commands.plan(named(job.config, job.id), self._config.price_per_hour, probe=False)
        except InvalidInput as exc:
            self._jobs.fail(job.id, exc.message, "invalid_training_file", exc.param)
        except Unavailable as exc:
            if self._clock() - job.created_at > CHECK_LIMIT_S:
                message = (
                    f"its files could not be checked within an hour: {exc.message}; create the job again"
                )
                self._jobs.fail(job.id, message, "check_timeout")
            self._check_again_at[job.id] = self._clock() + CHECK_AGAIN_S
            raise
        except HamletError as exc:
            self._jobs.fail(job.id, exc.message, exc.code)
            raise
        else:
            self._jobs.queue.add(job.id, plan)

    def _require_files(self, job: FineTuningJob) -> None:
        for param, file_id in (
            ("training_file", job.training_file),
            ("validation_file", job.validation_file),
        ):
            if file_id is not None and not self._files.is_kept(job.tenant, file_id):
                raise InvalidInput(f"{param} {file_id} was deleted before the job began", param)

    def _startable(self) -> list[QueuedJob]:
        # One that is being stopped still takes up room.
        busy = self._jobs.queue.busy()
        queued = [job for job in self._jobs.queue.waiting() if job.process == Process.NONE]
        return startable(queued, busy, self._config.max_running, self._config.max_running_per_tenant)

    def _await_turn(self, job: QueuedJob, busy: Sequence[FineTuningJob]) -> None:
        """Say why a job is still queued beside the busy ones, and end it when that has lasted too long."""
        config = self._config
        reason = reason_to_wait(job, busy, config.max_running, config.max_running_per_tenant)
        if reason is None:
            return  # its turn is the next round
        waited_s = self._clock() - (job.queued_at or job.created_at)
        if config.max_wait_s is not None and waited_s > config.max_wait_s:
            message = (
                f"the job waited {waited_s:.0f} s for its turn, longer than the {config.max_wait_s:g} s of "
                f"fine_tuning.max_wait_s: {reason}; create it again later"
            )
            self._jobs.queue.give_up(job.id, message)
        elif job.waits_for != reason:
            self._jobs.queue.tell_wait(job.id, reason)

    def _begin(self, job: QueuedJob) -> None:
        if self._jobs.queue.start(job.id, job.attempt):
            self._launch(self._jobs.get(job.tenant, job.id))

    def _follow(self, job: FineTuningJob) -> None:
        run = self._launcher.look(job.submission_id)
        step = next_step(job, run, self._config.max_losses, self._clock())
        if step is Step.LAUNCH:
            self._launch(job)
        elif step is Step.STOP:
            self._launcher.stop(job.submission_id)
        elif step is Step.SETTLE:
            self._jobs.queue.set_process(job.id, job.attempt, Process.NONE)
        elif step is Step.RETRY and self._jobs.queue.retry(job.id, job.attempt, reason_of(run)):
            self._launch(self._jobs.get(job.tenant, job.id))
        elif step is Step.FAIL:
            self._jobs.fail(job.id, f"training ended without a model: {reason_of(run)}")

    def _launch(self, job: FineTuningJob) -> None:
        uri = storage_uri("jobs", job.id, "config.yaml")
        try:
            place_bytes(yaml.safe_dump(named(job.config, job.id)).encode(), uri)
            self._launcher.start(job.submission_id, [*self._program, "run", uri, "--job", job.id])
        except Unavailable as exc:
            waited_s = self._clock() - (job.started_at or self._clock())
            if waited_s > self._config.launch_timeout_s:
                self._jobs.fail(job.id, f"training could not be started for {waited_s:.0f} s: {exc}")
                return
            raise
        self._jobs.queue.set_process(job.id, job.attempt, Process.LIVE)

    @property
    def _program(self) -> tuple[str, ...]:
        # A Ray job runs on another machine, where our interpreter's path says nothing.
        return TRAINING if self._config.launcher == "ray" else tuple(self._commands.program)
