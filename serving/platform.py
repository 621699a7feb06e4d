"""The no-code part of an application: files, fine-tuning jobs and models over SQL, with their background work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fastapi import APIRouter
from sqlalchemy.engine import Engine

from cluster.batches import Batches
from cluster.database import open_database
from cluster.files import Files
from cluster.fine_tuning_jobs import FineTuningJobs
from cluster.launcher import Launcher, LocalLauncher
from cluster.leases import Leases
from cluster.ray_launcher import RayLauncher
from cluster.registry import Registry
from cluster.settings import settings
from cluster.webhook_outbox import WebhookOutbox
from serving import batches_api, evaluations_api, files_api, fine_tuning_api, models_api
from serving.conductor import Conductor, Duty, owner_name
from serving.config import ServingConfig
from serving.job_keeper import JobKeeper
from serving.retention import Retention
from serving.training_commands import TrainingCommands
from serving.webhooks import Webhook

KEEP_EVERY_S = 1.0
DELIVER_EVERY_S = 1.0
RETAIN_EVERY_S = 30.0
SWEEP_EVERY_S = 3600.0


@dataclass(frozen=True)
class Platform:
    """Stores and commands of one application. Everything that must outlive a process is in them."""

    config: ServingConfig
    engine: Engine
    commands: TrainingCommands
    launcher: Launcher

    @classmethod
    def of(cls, config: ServingConfig, commands: TrainingCommands | None = None) -> Platform:
        """On the configured database, with the configured launcher."""
        commands = commands or TrainingCommands(timeout_s=config.files.validation_timeout_s)
        return cls(config, open_database(), commands, _launcher(config))

    def routers(self) -> Sequence[APIRouter]:
        files, jobs = Files(self.engine), FineTuningJobs(self.engine)
        return (
            files_api.router(files, self.commands, self.config),
            fine_tuning_api.router(jobs, files, self.commands, self.config),
            batches_api.router(Batches(self.engine), files, self.config),
            models_api.router(Registry(self.engine), self.config.base_names),
            evaluations_api.router(files, self.launcher, self.config),
        )

    def conductor(self) -> Conductor:
        files, jobs = Files(self.engine), FineTuningJobs(self.engine)
        keeper = JobKeeper(jobs, files, self.launcher, self.commands, self.config.fine_tuning)
        retention = Retention(files, jobs, Batches(self.engine), Registry(self.engine))
        duties = [
            Duty("validate-fine-tuning-jobs", keeper.validate, KEEP_EVERY_S),
            Duty("keep-fine-tuning-jobs", keeper.keep, KEEP_EVERY_S),
            Duty("retention", retention.apply, RETAIN_EVERY_S),
            Duty("sweep-storage", retention.sweep, SWEEP_EVERY_S),
        ]
        url, secret = settings().webhook_url, settings().webhook_secret
        if url is not None:
            webhook = Webhook(WebhookOutbox(self.engine), url, secret)
            duties.append(Duty("webhooks", webhook.deliver, DELIVER_EVERY_S))
        return Conductor(Leases(owner_name(), self.engine), duties)


def _launcher(config: ServingConfig) -> Launcher:
    if config.fine_tuning.launcher == "local":
        return LocalLauncher(settings().home_dir / "jobs")
    return RayLauncher()
