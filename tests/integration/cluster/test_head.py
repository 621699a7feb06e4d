"""The real Ray head: what it listens on, whom it answers, and that it ends without a trace."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from cluster.auth_token import auth_headers
from cluster.connection import connect, is_up
from cluster.head import down, up
from cluster.head_record import HeadRecord, is_alive, processes, read_record
from cluster.ports import free_port, port_is_free
from cluster.settings import settings


def listening(record: HeadRecord) -> set[tuple[str, int]]:
    """Address and port of everything that the head's processes listen on."""
    pids = {process.pid for process in processes(record)}
    connections = psutil.net_connections("tcp")
    return {
        (c.laddr.ip, c.laddr.port) for c in connections if c.pid in pids and c.status == psutil.CONN_LISTEN
    }


def test_every_port_of_the_head_is_on_the_loopback_interface(head: HeadRecord) -> None:
    found = listening(head)
    ports = {port for _, port in found}
    assert {int(head.address.split(":")[1]), int(head.dashboard_url.rsplit(":", 1)[1])} <= ports
    assert {address for address, _ in found} <= {"127.0.0.1", "::ffff:127.0.0.1"}


@pytest.mark.parametrize("path", ["/api/version", "/api/jobs/", "/api/serve/applications/", "/api/v0/nodes"])
def test_without_the_token_every_call_is_refused(head: HeadRecord, path: str) -> None:
    url = head.dashboard_url + path
    assert httpx.get(url).status_code == 401
    assert httpx.get(url, headers={"Authorization": "Bearer wrong"}).status_code == 403
    assert httpx.get(url, headers=auth_headers()).status_code == 200


def test_a_client_with_another_token_cannot_connect(head: HeadRecord) -> None:
    code = "from cluster.connection import connect; connect()"
    environment = {**os.environ, "RAY_AUTH_TOKEN": "wrong", "RAY_ADDRESS": head.address}
    result = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60
    )
    assert result.returncode != 0
    assert f"the Ray at {head.dashboard_url} refuses the token" in result.stderr


def test_up_again_finds_the_head_running(head: HeadRecord) -> None:
    assert up() == (head, False)


def test_this_process_connects_and_gets_the_logical_cpus(head: HeadRecord) -> None:
    assert is_up()
    connect()
    connect()  # connected already

    import ray

    assert ray.cluster_resources()["CPU"] == head.num_cpus
    assert ray.get_runtime_context().namespace == "hamlet"


@pytest.fixture
def short_home(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A home and ports for a head of this test's own; whatever it starts is ended."""
    folder = Path(tempfile.mkdtemp(prefix="hamlet-test-"))
    monkeypatch.setenv("HAMLET_HOME", str(folder))
    for variable in ("HAMLET_RAY_PORT", "HAMLET_DASHBOARD_PORT"):
        monkeypatch.setenv(variable, str(free_port("127.0.0.1")))
    settings.cache_clear()
    yield folder
    down()
    shutil.rmtree(folder)


def test_what_a_killed_head_leaves_behind_is_ended_by_the_next_up_and_down_leaves_nothing(
    short_home: Path,
) -> None:
    record, started = up()
    assert started
    os.kill(record.pid, signal.SIGKILL)
    psutil.wait_procs([psutil.Process(record.pid)], timeout=10)
    assert not is_alive(record)
    assert not is_up()

    again, started = up()
    assert started
    assert again.pid != record.pid
    assert processes(record) == []
    family = processes(again)
    assert len(family) > 5

    assert down() == again
    assert read_record() is None
    assert not any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in family)
    assert port_is_free("127.0.0.1", settings().ray_port)
    assert down() is None
