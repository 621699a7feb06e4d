"""The installer's decisions; that it really installs is shown by `make` on a bare machine."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from cluster import install
from cluster.install import Step, StepFailed, constraints, main, needed, stamp_content, steps

REPOSITORY = Path(__file__).parents[3]


def test_it_runs_before_anything_is_installed() -> None:
    """`-S` leaves out the packages of the environment, `-I` the user's."""
    code = f"import sys; sys.path.insert(0, {str(REPOSITORY)!r}); import cluster.install"
    subprocess.run([sys.executable, "-I", "-S", "-c", code], check=True, cwd="/")


def test_torch_comes_before_what_would_choose_its_build_and_bytecode_when_all_is_there() -> None:
    installed = [step.name for step in steps(has_gpu=False, extra=None)]
    assert installed == ["pip", "torch", "project", "vllm", "bytecode"]
    with_tests = [step.name for step in steps(has_gpu=True, extra="test")]
    assert with_tests == ["pip", "torch", "project", "vllm", "test", "browser", "bytecode"]


def test_vllms_picture_and_sound_packages_are_left_out_and_markers_kept() -> None:
    lines = [
        "torch==2.13.0",
        "torchvision",
        "torchaudio==2.13",
        "TorchCodec>=0.1; python_version>'3'",
        "numba==0.6",
    ]
    assert needed([*lines, 'xgrammar>=0.1; platform_machine == "x86_64"']) == [
        "numba==0.6",
        'xgrammar>=0.1; platform_machine == "x86_64"',
    ]


def test_constraints_name_no_extras_since_pip_refuses_them() -> None:
    assert constraints(["ray[default,serve]==2.60.0", "torch>=2.13,<2.14"]) == [
        "ray==2.60.0",
        "torch>=2.13,<2.14",
    ]


def test_the_cpu_build_of_torch_is_tried_first_and_the_plain_one_taken_where_there_is_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[str] = []

    def pip(*arguments: str) -> None:
        asked.append(arguments[0])
        if "+cpu" in arguments[0]:
            raise StepFailed("No matching distribution")

    monkeypatch.setattr(install, "_pip", pip)
    install.install_torch(has_gpu=False)
    assert asked == ["torch==2.13.0+cpu", "torch==2.13.0"]
    asked.clear()
    install.install_torch(has_gpu=True)
    assert asked == ["torch==2.13.0"]


def test_chromium_is_asked_of_apt_only_where_there_is_none_and_it_may(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ran: list[tuple[str, ...]] = []
    found = {"chromium"}
    monkeypatch.setattr(install, "_run", lambda *command: ran.append(command))
    monkeypatch.setattr(install.shutil, "which", lambda name: name if name in found else None)
    monkeypatch.setattr(install.os, "geteuid", lambda: 0)
    install.install_browser()
    assert ran == []
    found.clear()
    with pytest.raises(StepFailed, match="install chromium with your system's packages"):
        install.install_browser()
    found.add("apt-get")
    install.install_browser()
    assert [command[1] for command in ran] == ["update", "install"]
    monkeypatch.setattr(install.os, "geteuid", lambda: 1000)
    with pytest.raises(StepFailed, match="needs root"):
        install.install_browser()


def test_bytecode_is_made_of_all_but_tests_and_models_wherever_the_project_lies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packages = tmp_path / "tests" / "site-packages"
    for name in ("a/b.py", "a/tests/c.py", "transformers/d.py", "transformers/models/e.py"):
        file = packages / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("x = 1\n")
    (packages / "newer_python.py").write_text("no code at all\n")  # packages bring such files too
    monkeypatch.setattr(install.sysconfig, "get_path", lambda name: str(packages))
    install.compile_packages()
    assert {file.name.split(".")[0] for file in packages.rglob("*.pyc")} == {"b", "d"}


class Machine:
    """An environment in a temporary folder, with steps that only count how often they are done."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.done: list[str] = []
        self.failing: set[str] = set()
        self.has_gpu = False
        monkeypatch.setattr(install, "ENVIRONMENT", folder)
        monkeypatch.setattr(install, "has_nvidia_gpu", lambda: self.has_gpu)
        monkeypatch.setattr(install, "steps", lambda has_gpu, extra: self.steps)
        self.steps = [
            Step("torch", "torch", lambda: self.do("torch")),
            Step("vllm", "vLLM", lambda: self.do("vllm"), instead="the transformers engine will generate"),
        ]

    def do(self, name: str) -> None:
        self.done.append(name)
        if name in self.failing:
            raise StepFailed("pip said\nno matching distribution")


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path, monkeypatch)


def test_a_second_run_skips_what_is_done_and_says_nothing(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([]) == 0
    assert "installing torch … 0 s" in capsys.readouterr().out
    assert main([]) == 0
    assert machine.done == ["torch", "vllm"]
    assert capsys.readouterr().out == ""


def test_a_gpu_that_was_put_in_makes_it_install_again(machine: Machine) -> None:
    main([])
    machine.has_gpu = True
    main([])
    assert machine.done == ["torch", "vllm"] * 2


def test_a_step_that_cannot_be_done_without_ends_it_with_the_tail_of_the_log(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    machine.failing = {"torch"}
    assert main([]) == 1
    printed = capsys.readouterr().out
    assert "no matching distribution" in printed
    assert "install.log" in printed
    assert machine.done == ["torch"]


def test_without_vllm_it_says_which_engine_will_serve_and_tries_again_only_when_asked(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    machine.failing = {"vllm"}
    assert main([]) == 0
    assert "not possible here (no matching distribution): the transformers engine" in capsys.readouterr().out
    main([])
    assert machine.done == ["torch", "vllm"]
    main(["--retry"])
    assert machine.done == ["torch", "vllm", "vllm"]


def test_a_step_is_done_again_when_its_version_goes_up() -> None:
    step = Step("torch", "torch", lambda: None)
    newer = Step("torch", "torch", lambda: None, version=2)
    assert stamp_content(step, False) == stamp_content(step, False)
    assert len({stamp_content(step, False), stamp_content(step, True), stamp_content(newer, False)}) == 3


def test_only_what_is_installed_decides_whether_it_is_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, step = tmp_path / "pyproject.toml", Step("torch", "torch", lambda: None)
    monkeypatch.setattr(install, "PROJECT", tmp_path)

    def stamp(dependency: str, line_length: int) -> str:
        file.write_text(
            f"[build-system]\nrequires = []\n[project]\ndependencies = ['{dependency}']\n"
            f"[tool.ruff]\nline-length = {line_length}\n"
        )
        return stamp_content(step, False)

    assert stamp("one", 100) == stamp("one", 120) != stamp("two", 120)
