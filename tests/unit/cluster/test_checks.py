"""What the doctor makes of the facts."""

from __future__ import annotations

from collections import Counter

import pytest
from packaging.requirements import Requirement

from cluster import checks
from cluster.checks import GIB, Finding, Level
from cluster.working_dir import Package


@pytest.mark.parametrize(
    ("finding", "level", "said", "remedy"),
    [
        (checks.python_version("3.11.7"), Level.OK, "3.11.7", ""),
        (checks.python_version("3.12.0"), Level.OK, "3.12.0", ""),
        (checks.python_version("3.9.18"), Level.PROBLEM, "3.9.18", "PYTHON=python3.11"),
        (checks.not_installed("hamlet"), Level.PROBLEM, "hamlet is not installed", "pip install -e ."),
        (checks.vllm_engine("0.32.0"), Level.OK, "0.32.0", ""),
        (checks.vllm_engine(None), Level.WARNING, "transformers engine", "cluster.install --retry"),
        (checks.memory(24 * GIB, 20 * GIB), Level.OK, "20.0 GiB of 24.0 GiB", ""),
        (checks.memory(24 * GIB, 2 * GIB), Level.WARNING, "2.0 GiB of 24.0 GiB", "end other programs"),
        (checks.memory(4 * GIB, 3 * GIB), Level.WARNING, "3.0 GiB of 4.0 GiB", "8.0 GiB"),
        (checks.shared_memory(8 * GIB, 24 * GIB), Level.OK, "8.0 GiB", ""),
        (checks.shared_memory(64 * 2**20, 24 * GIB), Level.WARNING, "64.0 MiB", "--shm-size=8g"),
        (checks.disk("/data", 100 * GIB), Level.OK, "100.0 GiB free for /data", ""),
        (checks.disk("/data", GIB), Level.WARNING, "1.0 GiB free", "HAMLET_HOME"),
        (checks.processor(16, has_bf16=True), Level.OK, "16 cores, which multiply bfloat16", ""),
        (checks.processor(2, has_bf16=False), Level.OK, "float32, at about half the speed", "AVX-512 BF16"),
        (checks.no_gpu(), Level.OK, "no NVIDIA GPU", ""),
        (
            checks.gpus("550.1, A100\n550.1, A100", "12.4", "2.21.5"),
            Level.OK,
            "and 1 more, CUDA 12.4, NCCL",
            "",
        ),
        (checks.gpus("550.1, A100", None, None), Level.PROBLEM, "built for the CPU", "make clean"),
        (checks.gpus("450.1, A100", "12.4", None), Level.PROBLEM, "cannot use it", "driver for CUDA 12.4"),
        (
            checks.port("HAMLET_RAY_PORT", 6379, is_ours=True, owner="gcs (pid 7)"),
            Level.OK,
            "our Ray head",
            "",
        ),
        (checks.port("HAMLET_RAY_PORT", 6379, is_ours=False, owner=None), Level.OK, "free", ""),
        (
            checks.port("HAMLET_RAY_PORT", 6379, is_ours=False, owner="redis (pid 7)"),
            Level.PROBLEM,
            "redis (pid 7)",
            "HAMLET_RAY_PORT",
        ),
        (checks.head_down(), Level.OK, "python -m cluster up", ""),
        (checks.head_silent("no answer"), Level.PROBLEM, "no answer", "cluster down"),
        (checks.head_versions(("2.60.0", "3.11.7"), ("2.60.0", "3.11.7")), Level.OK, "Ray 2.60.0", ""),
        (
            checks.head_versions(("2.59.0", "3.11.7"), ("2.60.0", "3.11.7")),
            Level.PROBLEM,
            "Ray 2.59.0 on Python 3.11.7, but this environment has Ray 2.60.0",
            "cluster down",
        ),
        (checks.interface("10.0.0.1", {"eth0": ["10.0.0.1"]}), Level.OK, "eth0", ""),
        (
            checks.interface("10.0.0.2", {"eth0": ["10.0.0.1"]}),
            Level.PROBLEM,
            "10.0.0.2",
            "--node-ip-address",
        ),
        (checks.storage("/data"), Level.OK, "/data", ""),
        (checks.database(3), Level.OK, "3 models", ""),
        (checks.models(True, "https://hub", ["builtin:minilm"]), Level.OK, "https://hub answers", ""),
        (checks.models(False, "https://hub", []), Level.OK, "built-in models are cached", ""),
        (
            checks.models(False, "https://hub", ["builtin:minilm"]),
            Level.WARNING,
            "builtin:minilm is not cached",
            "python -m cluster models pull builtin:minilm",
        ),
        (checks.proxy_variables({}), Level.OK, "directly", ""),
        (
            checks.proxy_variables({"http_proxy": "http://p", "NO_PROXY": "a, 127.0.0.1"}),
            Level.OK,
            "directly",
            "",
        ),
        (
            checks.proxy_variables({"HTTP_PROXY": "http://p"}),
            Level.WARNING,
            "127.0.0.1",
            "no_proxy=127.0.0.1",
        ),
    ],
)
def test_each_fact_gets_its_level_and_remedy(finding: Finding, level: Level, said: str, remedy: str) -> None:
    assert finding.level is level
    assert said in finding.message
    assert remedy in finding.remedy
    assert finding.remedy or level is Level.OK


def test_packages_outside_their_range_are_named_with_both_versions() -> None:
    wanted = [
        Requirement("ray[serve]==2.60.0"),
        Requirement("torch>=2.13.0,<2.14"),
        Requirement("peft>=0.21"),
    ]
    findings = checks.package_versions(wanted, {"ray": "2.59.0", "torch": "2.13.0+cpu", "peft": None})
    assert [finding.name for finding in findings] == ["ray", "peft"]
    assert findings[0].message == "2.59.0; ==2.60.0 is what was tried"
    assert findings[0].remedy == "pip install 'ray==2.60.0'"
    assert findings[1].message.startswith("not installed")


def test_packages_in_their_ranges_are_one_line() -> None:
    [finding] = checks.package_versions([Requirement("torch>=2.13.0,<2.14")], {"torch": "2.13.0+cpu"})
    assert finding.level is Level.OK


def test_an_unknown_setting_is_named_and_the_known_ones_listed() -> None:
    known = {"HAMLET_HOME", "HAMLET_STORAGE"}
    finding = checks.unknown_variables({"HAMLET_HOMEE": "x", "HAMLET_HOME": "y", "HOME": "z"}, known)
    assert finding.level is Level.WARNING
    assert finding.message.startswith("HAMLET_HOMEE is set")
    assert "HAMLET_HOME, HAMLET_STORAGE" in finding.remedy
    assert checks.unknown_variables({"HAMLET_HOME": "y"}, known).level is Level.OK


def test_a_folder_too_large_to_upload_is_said_before_a_job_is_submitted() -> None:
    package = Package(Counter(data=600 * 2**20, code=1), Counter(data=2, code=1))
    finding = checks.working_dir(package)
    assert finding.level is Level.WARNING
    assert "data (600.0 MiB, 2 files)" in finding.remedy
    assert checks.working_dir(Package(Counter(code=1), Counter(code=1))).level is Level.OK
