"""Is this machine fit to train and serve? One small check per question, each with what to do about it.

`examine` gathers what the machine is like and hands it to the checks of `cluster.checks`, which decide.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import uuid
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

import psutil
from packaging.requirements import Requirement

from cluster import checks, dashboard
from cluster.checks import Finding, Level
from cluster.connection import dashboard_url
from cluster.errors import HamletError, Unavailable
from cluster.head_record import living_head, read_record
from cluster.network import interface_table
from cluster.ports import port_is_free, port_owner
from cluster.processor import has_bf16, has_gpu, num_cores
from cluster.settings import Settings, settings
from cluster.storage import reaching
from cluster.versions import installed_version
from cluster.working_dir import measure_package

DISTRIBUTION = "hamlet"


def examine() -> list[Finding]:
    """All findings, in the order in which one would put things right."""
    questions: list[Callable[[], list[Finding]]] = [
        _python,
        _packages,
        _vllm,
        _environment,
        _memory,
        _processor,
        _gpus,
        _ports,
        _head,
        _network,
        _storage,
        _database,
        _models,
        _working_dir,
    ]
    findings: list[Finding] = []
    for question in questions:
        try:
            findings += question()
        except HamletError as exc:  # what stops one check is a finding, not the end of the others
            message, _, remedy = str(exc).partition("; ")
            name = question.__name__.strip("_")
            findings.append(Finding(name=name, level=Level.PROBLEM, message=message, remedy=remedy))
    return findings


def _python() -> list[Finding]:
    return [checks.python_version(platform.python_version())]


def _packages() -> list[Finding]:
    try:
        lines = requires(DISTRIBUTION) or []
    except PackageNotFoundError:
        return [checks.not_installed(DISTRIBUTION)]
    requirements = map(Requirement, lines)
    wanted = [each for each in requirements if not each.marker or each.marker.evaluate({"extra": ""})]
    return checks.package_versions(wanted, {each.name: installed_version(each.name) for each in wanted})


def _vllm() -> list[Finding]:
    return [checks.vllm_engine(installed_version("vllm"))]


def _environment() -> list[Finding]:
    known = {f"HAMLET_{name.upper()}" for name in Settings.model_fields}
    return [checks.unknown_variables(dict(os.environ), known), checks.proxy_variables(dict(os.environ))]


def _memory() -> list[Finding]:
    memory = psutil.virtual_memory()
    findings = [checks.memory(memory.total, memory.available)]
    shm = Path("/dev/shm")
    if shm.is_dir():  # Linux; elsewhere Ray keeps its objects in files
        findings.append(checks.shared_memory(shutil.disk_usage(shm).total, memory.total))
    home = settings().home_dir
    existing = next(folder for folder in [home, *home.parents] if folder.exists())
    findings.append(checks.disk(str(home), shutil.disk_usage(existing).free))
    return findings


def _processor() -> list[Finding]:
    # Where a GPU computes, its processor's numbers do not matter, and torch need not be imported for them.
    return [] if has_gpu() else [checks.processor(num_cores(), has_bf16(on_gpu=False))]


def _gpus() -> list[Finding]:
    driver = _nvidia_smi()
    if driver is None:
        return [checks.no_gpu()]
    # Imported late: 2 s, and only a machine with a GPU has this question.
    import torch

    cuda = torch.version.cuda
    nccl = ".".join(map(str, torch.cuda.nccl.version())) if torch.cuda.is_available() else None  # type: ignore[no-untyped-call]
    return [checks.gpus(driver, cuda, nccl)]


def _ports() -> list[Finding]:
    head = living_head()
    ours = set() if head is None else {head.address, head.dashboard_url}
    config = settings()
    ports = {"HAMLET_RAY_PORT": config.ray_port, "HAMLET_DASHBOARD_PORT": config.dashboard_port}
    return [
        checks.port(
            variable,
            number,
            is_ours=any(address.endswith(f":{number}") for address in ours),
            owner=None if port_is_free(str(config.host), number) else port_owner(number) or "another program",
        )
        for variable, number in ports.items()
    ]


def _head() -> list[Finding]:
    try:
        url = dashboard_url()
    except Unavailable:
        return [checks.head_down()]
    ours = (version("ray"), platform.python_version())
    record = read_record()
    # A head on another machine tells its Ray only.
    python = record.python_version if record is not None and record.dashboard_url == url else ours[1]
    try:
        answered = dashboard.ray_version(url)
    except Unavailable as exc:
        return [checks.head_silent(str(exc))]
    return [checks.head_versions((answered, python), ours)]


def _network() -> list[Finding]:
    record = read_record()
    address = str(settings().host) if record is None else record.address.rsplit(":", 1)[0]
    return [checks.interface(address, interface_table())]


def _storage() -> list[Finding]:
    uri = settings().storage_uri
    _write_and_delete(uri)
    return [checks.storage(uri)]


def _database() -> list[Finding]:
    from cluster.registry import Registry

    return [checks.database(len(Registry().list()))]


def _models() -> list[Finding]:
    from cluster.builtin import BUILTIN_PREFIX, PACKAGES, is_cached
    from cluster.hub import hub_endpoint, hub_is_reachable

    missing = [BUILTIN_PREFIX + name for name in PACKAGES if not is_cached(name)]
    return [checks.models(hub_is_reachable(), hub_endpoint(), missing)]


def _working_dir() -> list[Finding]:
    return [checks.working_dir(measure_package(Path.cwd()))]


def _nvidia_smi() -> str | None:
    """A line of driver version and name for each GPU; None where there is none."""
    command = ["nvidia-smi", "--query-gpu=driver_version,name", "--format=csv,noheader"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.strip() or None if result.returncode == 0 else None


def _write_and_delete(uri: str) -> None:
    """Write, read and delete a small file in `uri`. Raises Unavailable."""
    content = uuid.uuid4().hex.encode()
    remedy = "make it writable, or set HAMLET_STORAGE to another folder or URI"
    with reaching(uri, "use", remedy) as (filesystem, folder):
        path = f"{folder.rstrip('/')}/.doctor-{content.decode()}"
        filesystem.makedirs(folder, exist_ok=True)
        filesystem.pipe_file(path, content)
        try:
            if filesystem.cat_file(path) != content:
                raise Unavailable(f"what was written to {uri} is not what is read; {remedy}")
        finally:
            filesystem.rm_file(path)
