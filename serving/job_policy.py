"""What to do next about a fine-tuning job: decided from its row and what became of its process. Pure.

The truth about a job's end is its row: the training run itself writes it, in the transaction that registers the
model, or with its error. A process that is gone without that was lost.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from enum import StrEnum

from cluster.fine_tuning_records import FineTuningJob, JobStatus, Process, QueuedJob
from cluster.launcher import Run, RunState

# From here on a shell reports the number of the signal that ended a process.
SIGNALLED = 128
# How every command of ours ends that may go well the next time: a store or the head was away.
TRY_AGAIN = 2
# An attempt that is lost sooner than this after its start is followed by the next only then; twice as long
# after each.
FIRST_RETRY_S = 5.0
# A run that has ended its job has so long to leave by itself.
LEAVE_S = 60.0


class Step(StrEnum):
    NOTHING = "nothing"
    LAUNCH = "launch"  # start the process of this attempt; starting it twice does no harm
    STOP = "stop"  # its process has no more business
    SETTLE = "settle"  # note that the process is gone
    RETRY = "retry"  # another attempt, from the newest checkpoint
    FAIL = "fail"


def next_step(job: FineTuningJob, run: Run, max_losses: int, now: float) -> Step:
    """What to do about a job that has, or may have, a process."""
    if job.status is not JobStatus.RUNNING:
        if run.state is not RunState.RUNNING:
            return Step.SETTLE
        ended_itself = job.status in (JobStatus.SUCCEEDED, JobStatus.FAILED)
        is_leaving = ended_itself and now < (job.finished_at or now) + LEAVE_S
        return Step.NOTHING if is_leaving else Step.STOP
    if run.state is RunState.RUNNING:
        return Step.NOTHING if job.process is Process.LIVE else Step.LAUNCH
    if run.state is RunState.ABSENT and job.process is Process.STARTING:
        return Step.LAUNCH
    if job.num_losses >= max_losses or not (run.state is RunState.ABSENT or may_go_on(run.exit_code)):
        return Step.FAIL
    not_before = (job.started_at or now) + FIRST_RETRY_S * 2**job.num_losses
    return Step.RETRY if now >= not_before else Step.NOTHING


def may_go_on(exit_code: int | None) -> bool:
    """Whether a process that left its job without an end was ended from outside, so that another may do better.

    A program that ends by a fault of its own would do so again.

    >>> [may_go_on(code) for code in (None, -9, 137, 2, 1, 0)]
    [True, True, True, True, False, False]
    """
    return exit_code is None or was_killed(exit_code) or exit_code == TRY_AGAIN


def was_killed(exit_code: int) -> bool:
    """Whether a signal ended a process, as Python or a shell has it."""
    return exit_code < 0 or exit_code > SIGNALLED


def reason_of(run: Run) -> str:
    """How a process ended, in a few words."""
    if run.state is RunState.ABSENT:
        return "the cluster no longer knows it"
    is_killed = run.exit_code is None or was_killed(run.exit_code)
    how = "it was killed" if is_killed else f"it ended with exit code {run.exit_code}"
    return f"{how}: {run.last_words.removeprefix('error: ')}" if run.last_words else how


def startable(
    queued: Sequence[QueuedJob], busy: Sequence[FineTuningJob], max_running: int, max_per_tenant: int
) -> list[QueuedJob]:
    """The queued jobs that may start now beside the busy ones, oldest first.

    A tenant at its limit holds up nobody behind it.
    """
    room = max_running - len(busy)
    by_tenant = Counter(job.tenant for job in busy)
    chosen: list[QueuedJob] = []
    for job in queued:
        if len(chosen) < room and by_tenant[job.tenant] < max_per_tenant:
            chosen.append(job)
            by_tenant[job.tenant] += 1
    return chosen


def reason_to_wait(
    job: QueuedJob, busy: Sequence[FineTuningJob], max_running: int, max_per_tenant: int
) -> str | None:
    """Why a queued job may not start beside the busy ones, None when it may."""
    if job.process != Process.NONE:
        return "its process of before the pause has not ended yet"
    if len(busy) >= max_running:
        return f"as many jobs train as may at a time ({max_running}, fine_tuning.max_running)"
    if sum(other.tenant == job.tenant for other in busy) >= max_per_tenant:
        return (
            "as many jobs of its project train as may at a time "
            f"({max_per_tenant}, fine_tuning.max_running_per_tenant)"
        )
    return None
