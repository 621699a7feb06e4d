"""The `ray job submit` that is printed and run."""

from __future__ import annotations

import json
import re
import shlex
from importlib.metadata import version
from pathlib import Path

import pytest

from cluster.dashboard import TokenRefused
from cluster.errors import ConfigError, DataError, InvalidInput, Unavailable
from cluster.submission import split_entrypoint, submit_command
from cluster.working_dir import EXCLUDES

ADDRESS = "http://127.0.0.1:1"  # nobody answers there


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "train.py").write_text("print('hi')")
    return folder


@pytest.mark.parametrize(
    "entrypoint",
    [
        "python train.py --name 'my run'",
        ["python train.py --name 'my run'"],
        ["python", "train.py", "--name", "my run"],
    ],
)
def test_one_quoted_string_and_separate_words_mean_the_same(entrypoint: str | list[str]) -> None:
    assert split_entrypoint(entrypoint) == ["python", "train.py", "--name", "my run"]


@pytest.mark.parametrize("operator", [">", ">>", "|", "&&", "||", ";", "&", "<"])
def test_what_needs_a_shell_is_refused_with_the_way_to_get_one(operator: str) -> None:
    with pytest.raises(InvalidInput, match="sh -c"):
        split_entrypoint(f"python train.py {operator} out.txt")


def test_a_quoted_operator_is_an_ordinary_character() -> None:
    assert split_entrypoint("python ask.py 'a > b; c'") == ["python", "ask.py", "a > b; c"]


@pytest.mark.parametrize("entrypoint", ["", [], "   "])
def test_an_empty_entrypoint_is_refused(entrypoint: str | list[str]) -> None:
    with pytest.raises(InvalidInput, match="empty"):
        split_entrypoint(entrypoint)


def test_an_unclosed_quote_is_refused() -> None:
    with pytest.raises(InvalidInput, match="No closing quotation"):
        split_entrypoint("python train.py 'oops")


def test_the_printed_command_means_to_a_shell_what_is_run(project: Path) -> None:
    command = submit_command(["python", "train.py", "--name", "it's mine"], project, address=ADDRESS)
    words = [word for word in shlex.split(str(command)) if not word.startswith("RAY_AUTH_MODE=")]
    assert words == command.argv()
    assert words[-4:] == ["python", "train.py", "--name", "it's mine"]
    assert words[words.index("--") + 1] == "python"


def test_checkpoints_and_weights_are_left_out_by_the_runtime_environment(project: Path) -> None:
    argv = submit_command("python train.py", project, address=ADDRESS).argv()
    runtime_env = json.loads(argv[argv.index("--runtime-env-json") + 1])
    assert runtime_env == {"excludes": list(EXCLUDES)}


def test_a_project_with_a_rayignore_gets_the_short_command(project: Path) -> None:
    (project / ".rayignore").write_text("data\n")
    command = submit_command("python train.py", project, address=ADDRESS)
    assert command.argv() == [
        *("ray", "job", "submit", "--address", ADDRESS, "--working-dir", str(project)),
        *("--", "python", "train.py"),
    ]


def test_options_of_the_run_go_before_the_entrypoint(project: Path) -> None:
    argv = submit_command("python train.py", project, address=ADDRESS, num_cpus=0.5).argv("--no-wait")
    assert argv[argv.index("--entrypoint-num-cpus") + 1] == "0.5"
    assert argv.index("--no-wait") < argv.index("--")


def test_a_missing_working_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere is not a folder"):
        submit_command("python train.py", tmp_path / "nowhere", address=ADDRESS)


def test_without_a_head_the_remedy_is_to_start_one(project: Path) -> None:
    with pytest.raises(Unavailable, match="python -m cluster up"):
        submit_command("python train.py", project)


class Dashboard:
    """A cluster's dashboard that tells this version, or refuses to; keeps who was asked."""

    def __init__(self, answer: str | Unavailable) -> None:
        self.answer = answer
        self.asked: list[str] = []

    def ray_version(self, url: str) -> str:
        self.asked.append(url)
        if isinstance(self.answer, Unavailable):
            raise self.answer
        return self.answer


@pytest.mark.parametrize("address", ["http://10.0.0.1:8265", "http://10.0.0.1:8265/"])
def test_a_cluster_with_another_ray_is_refused_with_both_versions(
    project: Path, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    there = Dashboard("2.9.3")
    monkeypatch.setattr("cluster.dashboard.ray_version", there.ray_version)
    expected = rf"has Ray 2\.9\.3, this environment has Ray {re.escape(version('ray'))}"
    with pytest.raises(ConfigError, match=expected):
        submit_command("python train.py", project, address=address)
    assert there.asked == ["http://10.0.0.1:8265"]


def test_a_cluster_with_our_ray_takes_the_job(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.dashboard.ray_version", Dashboard(version("ray")).ray_version)
    assert submit_command("python train.py", project, address=ADDRESS).entrypoint == ("python", "train.py")


def test_a_cluster_that_refuses_our_token_says_so_before_the_upload(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cluster.dashboard.ray_version", Dashboard(TokenRefused("refused")).ray_version)
    with pytest.raises(TokenRefused):
        submit_command("python train.py", project, address=ADDRESS)
