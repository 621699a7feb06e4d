"""Servers that tests of several packages start."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.ports import free_port


@pytest.fixture
def postgres() -> Iterator[str]:
    """URL of a PostgreSQL server of its own; the test is skipped where none is installed."""
    if shutil.which("initdb") is None:
        pytest.skip("needs PostgreSQL's initdb and pg_ctl")
    # Not below pytest's folder, which PostgreSQL's own user cannot enter; it refuses to run as root.
    folder, port = Path(tempfile.mkdtemp(prefix="hamlet-pg-")), free_port("127.0.0.1")
    folder.chmod(0o777)
    user = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 and shutil.which("runuser") else []
    data, quiet = folder / "data", {"check": True, "stdout": subprocess.DEVNULL, "cwd": folder}
    subprocess.run([*user, "initdb", "-A", "trust", "-U", "hamlet", "-D", data], **quiet)  # type: ignore[call-overload]
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder}"
    control = [*user, "pg_ctl", "-D", data, "-l", folder / "log", "-w"]
    subprocess.run([*control, "-o", options, "start"], **quiet)  # type: ignore[call-overload]
    try:
        yield f"postgresql+psycopg://hamlet@127.0.0.1:{port}/postgres"
    finally:
        subprocess.run([*control, "-m", "immediate", "stop"], **quiet)  # type: ignore[call-overload]
        shutil.rmtree(folder, ignore_errors=True)
