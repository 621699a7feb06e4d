"""What jobs and commands must keep to: they run once, and what they name is there."""

from __future__ import annotations

import itertools
import re
import shlex
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path

from command_lines import unknown_commands
from manifests import REPOSITORY, Document, name_of, of_kind, offered_by, pods, ray_clusters, ray_jobs

from cluster.errors import ConfigError
from cluster.settings import Settings
from training.config import load_config

KNOWN_SETTINGS = {f"HAMLET_{name.upper()}" for name in Settings.model_fields}
_COMMAND = re.compile(r"python -m (.+)", re.DOTALL)
_TRAINING = re.compile(r"python -m training run (.+)", re.DOTALL)


def jobs_run_once(documents: list[Document]) -> list[str]:
    """One run, one bill: no second attempt, a deadline, its driver on a worker, and its cluster ends with it.

    Success is Ray's word: no Job or CronJob of ours submits to Ray and passes on the submitter's exit code.
    """
    faults = []
    for where, job in ray_jobs(documents):
        if job.get("backoffLimit") != 0:
            faults.append(f"{where}: a failing job would be run again")
        if not job.get("activeDeadlineSeconds"):
            faults.append(f"{where}: no deadline")
        if not job.get("entrypointNumCpus"):
            faults.append(f"{where}: the driver would run on the head")
        if "clusterSelector" in job:
            continue
        if not job.get("shutdownAfterJobFinishes") or "ttlSecondsAfterFinished" not in job:
            faults.append(f"{where}: its cluster would outlive it")
    for pod in pods(of_kind(documents, "Job", "CronJob")):
        if "ray job submit" in str(pod.spec):
            faults.append(f"{pod.where}: takes a submitter's exit code for the job's")
    return faults


def commands_exist(documents: list[Document]) -> list[str]:
    """Every `python -m …` is a command of ours, with options that it has, and reads files that are there and valid."""
    faults = []
    for where, command in commands(documents):
        faults += [f"{where}: no command {name}" for name in unknown_commands(f"python -m {command}")]
        if fault := _command_fault(shlex.split(command)):
            faults.append(f"{where}: {fault}")
    return faults


def commands(documents: list[Document]) -> Iterator[tuple[str, str]]:
    """Where, and the command after `python -m`."""
    for where, job in ray_jobs(documents):
        match = _COMMAND.match(job["entrypoint"])
        yield where, match.group(1) if match else job["entrypoint"]
    for pod in pods(documents):
        for container in pod.containers:
            text = " ".join([*container.get("command", []), *container.get("args", [])])
            if match := _COMMAND.search(text):
                yield pod.where, match.group(1)


def training_fits_its_cluster(documents: list[Document]) -> list[str]:
    """A run's driver and workers find room once the groups have grown: else it waits for hours, then fails."""
    faults = []
    for where, job in ray_jobs(documents):
        match = _TRAINING.match(job["entrypoint"])
        if match is None:
            continue
        config, *overrides = shlex.split(match.group(1))
        try:
            scaling = load_config(REPOSITORY / config, overrides).scaling
        except ConfigError:
            continue  # said by commands_exist
        groups = cluster_of(job, documents).get("workerGroupSpecs", [])
        asked = {
            "cpu": Decimal(job.get("entrypointNumCpus", 0))
            + scaling.num_workers * Decimal(str(scaling.cpus_per_worker)),
            "nvidia.com/gpu": Decimal(scaling.num_workers if scaling.use_gpu else 0),
        }
        for resource, number in asked.items():
            if number > (offered := offered_by(groups, resource)):
                faults.append(
                    f"{where}: asks for {float(number):g} {resource}, its cluster grows to {float(offered):g}"
                )
    return faults


def cluster_of(job: Document, documents: list[Document]) -> Document:
    """The RayClusterSpec that a job brings, or that of the cluster it selects; empty where there is none."""
    if "clusterSelector" not in job:
        return job["rayClusterSpec"]
    name = f"RayCluster/{job['clusterSelector'].get('ray.io/cluster')}"
    return dict(ray_clusters(documents)).get(name, {})


def settings_exist(documents: list[Document]) -> list[str]:
    """A misspelt HAMLET_ variable would be ignored in silence."""
    named = [
        (pod.where, variable["name"])
        for pod in pods(documents)
        for container in pod.containers
        for variable in container.get("env", [])
    ]
    named += [
        (name_of(document), key) for document in of_kind(documents, "ConfigMap") for key in document["data"]
    ]
    return [
        f"{where}: {name} is no setting"
        for where, name in named
        if name.startswith("HAMLET_") and name not in KNOWN_SETTINGS
    ]


def _command_fault(words: list[str]) -> str | None:
    module, *arguments = words
    if not _is_runnable(module):
        return f"{module} is no module that `python -m` runs"
    if module == "training" and arguments[:1] == ["run"]:
        try:
            load_config(REPOSITORY / arguments[1], arguments[2:])
        except ConfigError as exc:
            return str(exc)
    if module == "retrieval" and arguments[:1] == ["ingest"]:
        path = arguments[1]
        if "://" not in path and not path.startswith("/") and not (REPOSITORY / path).exists():
            return f"no documents at {path}"
    if module == "evaluation" and arguments[:1] == ["score"]:
        return _score_fault(dict(itertools.pairwise(arguments[1:])))
    return None


def _score_fault(options: dict[str, str]) -> str | None:
    """A gate that could not fail, or questions that are not there."""
    if not (REPOSITORY / options.get("--questions", "")).is_file():
        return f"no questions at {options.get('--questions')}"
    if not 0 < float(options.get("--min-accuracy", 0)) <= 1:
        return "scores without a gate"
    if options.get("--base-url") != "http://hamlet-serve-svc:8000/v1":
        return f"asks {options.get('--base-url')}, which is not where hamlet serves"
    return None


def _is_runnable(module: str) -> bool:
    path = REPOSITORY.joinpath(*module.split("."))
    return path.with_suffix(".py").is_file() or Path(path, "__main__.py").is_file()


RULES: tuple[Callable[[list[Document]], list[str]], ...] = (
    jobs_run_once,
    commands_exist,
    training_fits_its_cluster,
    settings_exist,
)
