"""How the head's process is started."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from cluster.head_process import (
    DEFAULT_ENVIRONMENT,
    MAX_FOLDER_LENGTH,
    logical_cpus,
    node_environment,
    private_folder,
    start_command,
)
from cluster.settings import Settings, settings


@pytest.mark.parametrize(
    ("configured", "cores", "expected"), [(None, 2, 4), (None, 16, 16), (2, 16, 2), (0, 16, 0)]
)
def test_a_laptop_gets_four_logical_cpus_unless_told_otherwise(
    configured: int | None, cores: int, expected: int
) -> None:
    assert logical_cpus(configured, cores) == expected


def test_the_head_is_bound_to_the_loopback_interface_and_demands_a_token() -> None:
    command = start_command(Settings(), 10001, 4, Path("/tmp/t"))
    assert "--node-ip-address=127.0.0.1" in command
    assert "--dashboard-host=127.0.0.1" in command
    environment = node_environment()
    assert environment["RAY_AUTH_MODE"] == "token"
    assert environment["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] == "0"


def test_only_a_head_that_other_nodes_may_join_watches_for_nodes_that_are_drained(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert node_environment()["RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"] == "0"
    monkeypatch.setenv("HAMLET_HOST", "10.0.0.1")
    settings.cache_clear()
    assert "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER" not in node_environment()


def test_a_head_is_on_an_outer_address_only_when_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HAMLET_HOST", "10.0.0.1")
    monkeypatch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # of a shell that used a loopback head
    settings.cache_clear()
    command = start_command(settings(), 10001, 4, Path("/tmp/t"))
    assert "--node-ip-address=10.0.0.1" in command
    assert "--dashboard-host=10.0.0.1" in command
    environment = node_environment()
    assert environment["RAY_AUTH_MODE"] == "token"
    assert environment["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] == "1"


def test_a_users_own_thread_and_memory_settings_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MALLOC_CONF", raising=False)
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    environment = node_environment()
    assert environment["GOMP_SPINCOUNT"] == "7"
    assert environment["MALLOC_CONF"] == DEFAULT_ENVIRONMENT["MALLOC_CONF"]


def test_a_head_is_not_told_of_the_cluster_that_its_shell_used_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names = ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "RAY_DASHBOARD_ADDRESS")
    for name in names:
        monkeypatch.setenv(name, "http://10.0.0.9:8265")
    assert not node_environment().keys() & set(names)


def test_jobs_keep_their_state_where_the_head_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HAMLET_HOME", "state")
    monkeypatch.setenv("HAMLET_STORAGE", "weights")
    settings.cache_clear()
    environment = node_environment()
    assert environment["HAMLET_HOME"] == str(tmp_path / "state")
    assert environment["HAMLET_STORAGE"] == str(tmp_path / "weights")
    monkeypatch.delenv("HAMLET_STORAGE")
    settings.cache_clear()
    assert "HAMLET_STORAGE" not in node_environment(), "what is not set, a job may still be given"


def test_the_head_runs_in_this_environments_python() -> None:
    assert start_command(Settings(), 10001, 4, Path("/tmp/t"))[0] == sys.executable


def test_rays_files_lie_below_a_short_home() -> None:
    assert private_folder(Path("/root/.hamlet")) == Path("/root/.hamlet/ray")


def test_a_long_home_gets_a_short_folder_of_its_own() -> None:
    one, other = (private_folder(Path("/very/long/path" * 5) / name) for name in "ab")
    assert one != other
    assert f"-{os.getuid()}-" in one.name
    assert len(str(one)) <= MAX_FOLDER_LENGTH


def test_the_longest_folder_leaves_room_for_every_socket_name() -> None:
    folder = "/" + "x" * (MAX_FOLDER_LENGTH - 1)
    assert private_folder(Path(folder).parent / folder[1 : MAX_FOLDER_LENGTH - 4]) == Path(
        folder[:-4] + "/ray"
    )
    session = "session_2026-11-25_08-50-23_676049_4194304"
    assert len(f"{folder}/t/{session}/sockets/plasma_store") <= 103
    assert len(f"{folder}/p/{'0' * 56}/s") <= 97
