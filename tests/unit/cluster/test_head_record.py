"""What is written down about the head, and which processes are its own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from cluster.head_record import (
    MARKER_VARIABLE,
    HeadRecord,
    is_alive,
    living_head,
    processes,
    read_record,
    record_path,
    write_record,
)


def record_of(process: psutil.Process, head_id: str = "abc") -> HeadRecord:
    return HeadRecord(
        head_id=head_id,
        pid=process.pid,
        started_at_s=process.create_time(),
        address="127.0.0.1:6379",
        dashboard_url="http://127.0.0.1:8265",
        ray_version="2.60.0",
        python_version="3.11.7",
        num_cpus=4,
        temp_dir=Path("/tmp/t"),
    )


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    """A process that carries the mark of the head `abc`."""
    process = subprocess.Popen(
        [sys.executable, "-c", "import time; print(flush=True); time.sleep(60)"],
        env={**os.environ, MARKER_VARIABLE: "abc"},
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    process.stdout.readline()
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_record_is_read_as_it_was_written() -> None:
    record = record_of(psutil.Process())
    write_record(record)
    assert read_record() == record


def test_without_a_head_there_is_no_record() -> None:
    assert read_record() is None
    assert living_head() is None


def test_a_damaged_record_is_ignored_and_said_so(caplog: pytest.LogCaptureFixture) -> None:
    record_path().write_text('{"pid": 12')
    assert read_record() is None
    assert "cluster.json is unreadable" in caplog.text


def test_a_reused_pid_is_not_taken_for_the_head() -> None:
    record = record_of(psutil.Process())
    assert is_alive(record)
    assert not is_alive(record.model_copy(update={"started_at_s": record.started_at_s - 60}))


def test_a_clock_that_is_set_does_not_end_the_head(
    sleeper: subprocess.Popen[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = record_of(psutil.Process(sleeper.pid))
    boot = f"btime {psutil.boot_time():.0f}"
    later = tmp_path / "proc"
    later.mkdir()
    (later / str(sleeper.pid)).symlink_to(f"/proc/{sleeper.pid}")
    (later / "stat").write_text(
        Path("/proc/stat").read_text().replace(boot, f"btime {psutil.boot_time() + 30:.0f}")
    )
    monkeypatch.setattr(psutil, "PROCFS_PATH", str(later))
    assert psutil.Process(sleeper.pid).create_time() == pytest.approx(record.started_at_s + 30)
    assert is_alive(record)
    assert not is_alive(record.model_copy(update={"head_id": "another head"}))


def test_a_head_that_ended_is_not_alive_even_before_it_is_reaped(sleeper: subprocess.Popen[bytes]) -> None:
    record = record_of(psutil.Process(sleeper.pid))
    write_record(record)
    assert living_head() == record
    sleeper.kill()
    psutil.wait_procs([psutil.Process(sleeper.pid)], timeout=10)
    assert not is_alive(record)
    assert living_head() is None


def test_a_process_that_lost_its_mark_is_found_by_its_parent() -> None:
    # As setproctitle does it: the title is written over the environment that the kernel shows.
    forget = "import os, subprocess, sys; subprocess.run(['sleep', '60'], env={})"
    marked = subprocess.Popen([sys.executable, "-c", forget], env=os.environ | {MARKER_VARIABLE: "lost"})
    try:
        record = record_of(psutil.Process(), "lost")
        deadline = time.monotonic() + 20
        while len(found := processes(record)) < 2:
            assert time.monotonic() < deadline, found
            time.sleep(0.01)
        assert {process.ppid() for process in found} == {os.getpid(), marked.pid}
    finally:
        for process in [*psutil.Process(marked.pid).children(), marked]:
            process.kill()
        marked.wait()


def test_processes_are_found_by_their_mark_and_no_others(sleeper: subprocess.Popen[bytes]) -> None:
    this = psutil.Process()
    assert [process.pid for process in processes(record_of(this, "abc"))] == [sleeper.pid]
    assert processes(record_of(this, "another head")) == []
