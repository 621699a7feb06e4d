"""Fine-tuning jobs, events and checkpoints in OpenAI's shapes; what is ours stands in `hamlet`."""

from __future__ import annotations

from typing import Any

from cluster.fine_tuning_records import Checkpoint, Event, FineTuningJob, JobStatus
from cluster.settings import settings


def job_object(job: FineTuningJob) -> dict[str, Any]:
    finish = estimated_finish(job)
    return {
        "id": job.id,
        "object": "fine_tuning.job",
        "created_at": int(job.created_at),
        "finished_at": _seconds(job.finished_at),
        "estimated_finish": _seconds(finish),
        "status": job.status.value,
        "model": job.model,
        "fine_tuned_model": job.fine_tuned_model,
        "organization_id": settings().organization,
        "training_file": job.training_file,
        "validation_file": job.validation_file,
        "result_files": job.result_files,
        "trained_tokens": job.trained_tokens,
        "error": job.error,
        "seed": job.seed,
        "method": job.method,
        "hyperparameters": job.hyperparameters,
        "metadata": job.labels,
        "integrations": [],
        "hamlet": {
            "step": job.step,
            "total_steps": job.total_steps,
            "attempt": job.attempt,
            "num_losses": job.num_losses,
            "waits_for": job.waits_for if job.status is JobStatus.QUEUED else None,
            "plan": job.plan or None,
        },
    }


def event_object(event: Event) -> dict[str, Any]:
    return {
        "id": event.id,
        "object": "fine_tuning.job.event",
        "created_at": int(event.created_at),
        "level": event.level,
        "type": event.type,
        "message": event.message,
        "data": event.data,
    }


def checkpoint_object(checkpoint: Checkpoint) -> dict[str, Any]:
    return {
        "id": checkpoint.id,
        "object": "fine_tuning.job.checkpoint",
        "created_at": int(checkpoint.created_at),
        "fine_tuning_job_id": checkpoint.job_id,
        "fine_tuned_model_checkpoint": checkpoint.model_id,
        "step_number": checkpoint.step,
        "metrics": {"step": checkpoint.step, **checkpoint.metrics},
    }


def estimated_finish(job: FineTuningJob) -> float | None:
    """When a running job will end, in Unix seconds: at the mean speed so far, else by its plan.

    None for a later attempt: from which step it went on is not known, and so neither is its speed.
    """
    if job.status is not JobStatus.RUNNING or job.started_at is None or job.attempt > 1:
        return None
    if job.step and job.total_steps and job.progress_at and job.progress_at > job.started_at:
        seconds_per_step = (job.progress_at - job.started_at) / job.step
        return job.progress_at + seconds_per_step * max(job.total_steps - job.step, 0)
    planned_s = job.plan.get("train_seconds")
    return job.started_at + planned_s if isinstance(planned_s, int | float) else None


def _seconds(time: float | None) -> int | None:
    return None if time is None else int(time)
