"""Which cluster a process talks to."""

from __future__ import annotations

import os
import platform
import socket
import sys
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

import psutil
import pytest

from cluster.connection import client_environment, cluster_address, connect, dashboard_url, is_up
from cluster.errors import ConfigError, Unavailable
from cluster.head_record import HeadRecord, write_record


@pytest.fixture
def head_record() -> HeadRecord:
    """A living head of this home, as far as its record goes."""
    record = HeadRecord(
        head_id="of this test",
        pid=os.getpid(),
        started_at_s=psutil.Process().create_time(),
        address="127.0.0.1:1",
        dashboard_url="http://127.0.0.1:2",
        ray_version=version("ray"),
        python_version=platform.python_version(),
        num_cpus=4,
        temp_dir=Path("/tmp/t"),
    )
    write_record(record)
    return record


def test_without_a_cluster_the_remedy_is_to_start_one() -> None:
    assert not is_up()
    for ask in (connect, dashboard_url):
        with pytest.raises(Unavailable, match="python -m cluster up"):
            ask()


def test_the_head_of_this_home_is_the_default(head_record: HeadRecord) -> None:
    assert cluster_address() == "127.0.0.1:1"
    assert dashboard_url() == "http://127.0.0.1:2"


def test_a_head_that_has_ended_is_none(head_record: HeadRecord) -> None:
    write_record(head_record.model_copy(update={"started_at_s": 0.0}))
    assert cluster_address() is None


def test_ray_address_goes_before_the_head(head_record: HeadRecord, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert cluster_address() == "10.0.0.1:6379"


def test_auto_is_the_head_of_this_home_where_it_runs(
    head_record: HeadRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    assert cluster_address() == "127.0.0.1:1"
    assert client_environment()["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] == "0"
    write_record(head_record.model_copy(update={"started_at_s": 0.0}))
    assert cluster_address() == "auto"


def test_what_a_client_of_one_head_needs_is_not_told_by_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER" in client_environment(address="127.0.0.1:6379")
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:6379")
    assert "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER" not in client_environment(address="10.0.0.1:6379")


def test_an_http_ray_address_is_the_dashboards(
    head_record: HeadRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "http://10.0.0.1:8265/")
    assert cluster_address() == "127.0.0.1:1"
    assert dashboard_url() == "http://10.0.0.1:8265"


def test_another_machines_head_is_asked_for_its_dashboard(
    head_record: HeadRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cluster.connection._dashboard_of", lambda address: f"http://dashboard of {address}")
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert dashboard_url() == "http://dashboard of 10.0.0.1:6379"
    monkeypatch.setenv("RAY_ADDRESS", head_record.address)  # as in every job of our own head
    assert dashboard_url() == head_record.dashboard_url


def test_a_replica_on_another_host_asks_the_cluster_that_it_is_part_of(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class ConnectedRay:
        gcs_address = "10.0.0.1:6379"

        def is_initialized(self) -> bool:
            return True

        def get_runtime_context(self) -> ConnectedRay:
            return self

    monkeypatch.setitem(sys.modules, "ray", ConnectedRay())
    monkeypatch.setattr("cluster.connection._dashboard_of", lambda address: f"http://dashboard of {address}")
    assert dashboard_url() == "http://dashboard of 10.0.0.1:6379"


def test_a_cluster_that_refuses_the_token_is_named_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    class RayError(Exception):
        pass

    def refuse(address: str) -> str:
        raise RayError("a page of advice")

    modules = {
        name: ModuleType(name) for name in ("ray", "ray.dashboard", "ray.dashboard.utils", "ray.exceptions")
    }
    vars(modules["ray"])["is_initialized"] = lambda: False
    vars(modules["ray.dashboard.utils"])["get_address_for_submission_client"] = refuse
    vars(modules["ray.exceptions"])["RayError"] = RayError
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr("cluster.connection.accepts_connections", lambda host, port: True)
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.9:6379")
    with pytest.raises(
        Unavailable, match=r"no Ray cluster answers at 10\.0\.0\.9:6379, or it refuses our token"
    ):
        dashboard_url()


def test_a_head_that_is_not_there_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")  # Ray itself tries for a minute
    with pytest.raises(Unavailable, match=r"nothing listens at 127\.0\.0\.1:1; start one"):
        dashboard_url()


def test_being_up_means_that_something_listens(head_record: HeadRecord) -> None:
    assert not is_up()
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        write_record(head_record.model_copy(update={"address": f"127.0.0.1:{server.getsockname()[1]}"}))
        assert is_up()


def test_a_cluster_of_other_versions_is_refused_with_both(
    head_record: HeadRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cluster.connection.accepts_connections", lambda host, port: True)
    write_record(head_record.model_copy(update={"ray_version": "2.59.0"}))
    with pytest.raises(ConfigError, match=rf"has Ray 2\.59\.0 .* this process has Ray {version('ray')}"):
        connect()


def test_only_clients_of_a_loopback_head_look_for_it_there(
    head_record: HeadRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "sesame")
    assert client_environment() == {"RAY_AUTH_MODE": "token", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
    assert client_environment(for_http=True) == {"RAY_AUTH_MODE": "token"}
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert client_environment() == {"RAY_AUTH_MODE": "token"}


def test_without_a_token_none_is_demanded_of_the_cluster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "none"))
    assert client_environment() == {}
