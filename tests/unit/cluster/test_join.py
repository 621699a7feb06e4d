"""Joining another machine's head: what is refused, and what Ray is started with."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from cluster.errors import ConfigError, Unavailable
from cluster.head_process import private_folder
from cluster.join import join, join_command
from cluster.ports import free_port
from cluster.settings import Settings, settings


@pytest.fixture(autouse=True)
def token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "sesame")


@pytest.mark.parametrize("address", ["10.0.0.1", "6379", "http://10.0.0.1:8265/", ""])
def test_what_is_not_host_and_port_is_refused(address: str) -> None:
    with pytest.raises(ConfigError, match="is not host:port"):
        join(address)


def test_without_the_heads_token_nothing_is_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "none"))
    with pytest.raises(ConfigError, match=r"no Ray token in .*copy it from the head's machine"):
        join("127.0.0.1:6379")


def test_a_head_that_does_not_listen_is_named_with_how_to_start_it() -> None:
    port = free_port("127.0.0.1")
    with pytest.raises(Unavailable, match=rf"nothing listens at 127\.0\.0\.1:{port}; start the head"):
        join(f"127.0.0.1:{port}")


def test_a_worker_is_a_node_of_several_hosts_that_waits_for_its_head(monkeypatch: pytest.MonkeyPatch) -> None:
    started: dict[str, str] = {}

    def note(_program: str, _command: list[str], environment: dict[str, str]) -> None:
        started.update(environment)

    monkeypatch.setattr("cluster.join.accepts_connections", lambda *_, **__: True)
    monkeypatch.setattr(os, "execve", note)
    monkeypatch.setattr(os, "chdir", lambda _: None)
    join("10.0.0.1:6379")
    assert started["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] == "1"
    assert started["RAY_AUTH_MODE"] == "token"
    assert int(started["RAY_gcs_rpc_server_reconnect_timeout_s"]) > 60
    shutil.rmtree(private_folder(settings().home_dir))


def test_a_worker_says_its_address_only_when_it_was_given_one() -> None:
    def addresses(config: Settings) -> list[str]:
        command = join_command(config, "10.0.0.1:6379", 4, Path("/tmp/t"))
        return [word for word in command if "address" in word]

    assert addresses(Settings()) == ["--address=10.0.0.1:6379"]
    assert addresses(Settings(host="10.0.0.2")) == ["--address=10.0.0.1:6379", "--node-ip-address=10.0.0.2"]
