"""What keeps a head from starting, without starting one."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from cluster.dashboard import TokenRefused
from cluster.errors import Conflict, Unavailable
from cluster.head import down, up, wait_until_ready
from cluster.head_record import HeadRecord, read_record, record_path, write_record
from cluster.settings import settings


@pytest.fixture
def occupied(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """A port on which something listens that is no Ray."""

    def no_ray(url: str, timeout_s: float) -> str:
        raise Unavailable("not a Ray dashboard")

    monkeypatch.setattr("cluster.dashboard.ray_version", no_ray)
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield server.getsockname()[1]


@pytest.fixture
def running() -> HeadRecord:
    """A record whose head is this very process."""
    record = HeadRecord(
        head_id="of this test",
        pid=os.getpid(),
        started_at_s=psutil.Process().create_time(),
        address="127.0.0.1:1",
        dashboard_url="http://127.0.0.1:1",
        ray_version="2.59.0",
        python_version="3.10.1",
        num_cpus=4,
        temp_dir=Path("/tmp/t"),
    )
    write_record(record)
    return record


def use_port(monkeypatch: pytest.MonkeyPatch, variable: str, port: int) -> None:
    monkeypatch.setenv(variable, str(port))
    settings.cache_clear()


def test_a_port_in_use_is_refused_naming_port_owner_and_setting(
    occupied: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_port(monkeypatch, "HAMLET_DASHBOARD_PORT", occupied)
    expected = rf"port {occupied} is used by .* \(pid {os.getpid()}\); .*HAMLET_DASHBOARD_PORT"
    with pytest.raises(Conflict, match=expected):
        up()
    assert read_record() is None


def test_a_port_that_no_process_is_seen_to_hold_is_waited_for(
    occupied: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_port(monkeypatch, "HAMLET_DASHBOARD_PORT", occupied)
    states = iter([False, False, True, True])  # of the dashboard's port, as its killed process goes; of Ray's
    monkeypatch.setattr("cluster.head.port_is_free", lambda host, port: next(states))
    monkeypatch.setattr("cluster.head.port_owner", lambda port: None)
    monkeypatch.setattr("cluster.head.start_head", lambda: pytest.fail("started"))
    with pytest.raises(pytest.fail.Exception, match="started"):
        up()


def test_another_ray_on_the_port_is_named_with_its_version(
    occupied: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_port(monkeypatch, "HAMLET_DASHBOARD_PORT", occupied)
    monkeypatch.setattr("cluster.dashboard.ray_version", lambda url, timeout_s: "2.9.3")
    with pytest.raises(Conflict, match=r"used by a Ray 2\.9\.3 that was not started from this HAMLET_HOME"):
        up()


def test_another_ray_with_another_token_is_told_apart(occupied: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(url: str, timeout_s: float) -> str:
        raise TokenRefused("refused")

    use_port(monkeypatch, "HAMLET_DASHBOARD_PORT", occupied)
    monkeypatch.setattr("cluster.dashboard.ray_version", refuse)
    with pytest.raises(Conflict, match="a Ray with another token"):
        up()


def test_a_running_head_of_other_versions_is_refused_with_both(running: HeadRecord) -> None:
    with pytest.raises(Conflict, match=r"Ray 2\.59\.0 on Python 3\.10\.1, this environment .* down, then"):
        up()


def test_a_stale_record_is_removed_before_the_ports_are_looked_at(
    running: HeadRecord, occupied: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_record(running.model_copy(update={"started_at_s": running.started_at_s - 100}))
    use_port(monkeypatch, "HAMLET_DASHBOARD_PORT", occupied)
    with pytest.raises(Conflict, match="port"):
        up()
    assert not record_path().exists()


def test_down_without_a_head_does_nothing() -> None:
    assert down() is None
    assert down() is None


def test_a_state_in_redis_that_stays_keeps_the_record_for_another_down(
    running: HeadRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_record(running.model_copy(update={"started_at_s": 0.0}))

    def fail(*_: object) -> None:
        raise Unavailable("no Redis")

    monkeypatch.setattr("cluster.head.forget", fail)
    with pytest.raises(Unavailable, match="no Redis"):
        down()
    assert read_record() is not None
    monkeypatch.setattr("cluster.head.forget", lambda *_: None)
    down()
    assert read_record() is None


@pytest.mark.parametrize("url", [None, "redis://10.0.0.6"])
def test_down_ends_nothing_before_it_is_told_the_redis_of_up(
    running: HeadRecord, monkeypatch: pytest.MonkeyPatch, url: str | None
) -> None:
    record = running.model_copy(update={"started_at_s": 0.0, "redis": "10.0.0.5:6379"})
    write_record(record)
    monkeypatch.setenv("HAMLET_HOST", "10.0.0.1")
    if url is not None:
        monkeypatch.setenv("HAMLET_REDIS_URL", url)
    settings.cache_clear()
    monkeypatch.setattr("cluster.head._kill", lambda _: pytest.fail("the head was ended"))
    with pytest.raises(Unavailable, match=r"Redis at 10\.0\.0\.5:6379.* set HAMLET_REDIS_URL"):
        down()
    assert read_record() == record


def test_down_has_the_state_forgotten_where_up_had_it_kept(
    running: HeadRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_record(running.model_copy(update={"started_at_s": 0.0, "redis": "10.0.0.5:6379"}))
    monkeypatch.setenv("HAMLET_HOST", "10.0.0.2")  # not the one of `up`
    monkeypatch.setenv("HAMLET_REDIS_URL", "redis://:sesame@10.0.0.5")
    settings.cache_clear()
    forgotten = []
    monkeypatch.setattr("cluster.head.forget", lambda _, address: forgotten.append(address))
    down()
    assert forgotten == [running.address]
    assert read_record() is None


def test_a_home_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("HAMLET_HOME", str(tmp_path / "file" / "home"))
    settings.cache_clear()
    with pytest.raises(Unavailable, match=r"cannot write to .*file/home .*HAMLET_HOME"):
        up()


def test_a_dashboard_that_failed_alone_is_quoted(
    running: HeadRecord, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logs = tmp_path / "session_latest" / "logs"
    logs.mkdir(parents=True)
    (logs / "dashboard.log").write_text("Traceback\nImportError: cannot import name 'web'\n")
    monkeypatch.setattr("cluster.head.START_DEADLINE_S", 0.0)
    with pytest.raises(Unavailable, match="dashboard said last: ImportError: cannot import name 'web'; see"):
        wait_until_ready(running.model_copy(update={"temp_dir": tmp_path}))
