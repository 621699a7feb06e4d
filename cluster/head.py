"""The local Ray head of a HAMLET_HOME: `up` and `down`.

It listens on 127.0.0.1, or where HAMLET_HOST says, and demands a token. It is never ended by `ray stop`,
which kills every Ray of the machine: `down` ends exactly the processes that `up` started.
"""

from __future__ import annotations

import fcntl
import logging
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version

import psutil

from cluster import dashboard
from cluster.auth_token import ensure_token
from cluster.errors import Conflict, Unavailable
from cluster.head_process import log_path, start_head
from cluster.head_record import HeadRecord, is_alive, is_living, processes, read_record, record_path
from cluster.head_redis import forget, redis_address
from cluster.last_words import last_line_of
from cluster.ports import port_is_free, port_owner
from cluster.settings import settings

log = logging.getLogger(__name__)

START_DEADLINE_S = 60.0
# Ray waits about 11 s for Serve's replicas to drain; behind a local head there is nobody to drain for.
STOP_DEADLINE_S = 4.0
# Of what was killed: gigabytes are given back before a process is gone, which takes a busy machine seconds.
KILL_DEADLINE_S = 20.0
# Of a port that no process is seen to hold: one of a killed process is free when the last of its threads is gone.
RELEASE_DEADLINE_S = 5.0
SILENT = "it said nothing"


def up() -> tuple[HeadRecord, bool]:
    """Start the head of this HAMLET_HOME, or find it running; returns its record and whether it was started.

    On return the jobs API answers and jobs have a node to run on. Raises Conflict when a port is taken or a
    head of other versions runs, Unavailable when Ray does not come up.
    """
    with _exclusive():
        record = read_record()
        if record is not None and is_alive(record):
            _require_same_versions(record)
            wait_until_ready(record)
            return record, False
        if record is not None:
            log.info("the head in %s is gone; starting a new one", record_path())
            _end(record)
        _require_free_port(settings().dashboard_port, "HAMLET_DASHBOARD_PORT")
        _require_free_port(settings().ray_port, "HAMLET_RAY_PORT")
        ensure_token()
        record = start_head()
        try:
            wait_until_ready(record)
        except BaseException:  # also Ctrl-C: what was started is never left half up
            _end(record)
            raise
        return record, True


def down() -> HeadRecord | None:
    """End the head of this HAMLET_HOME and all it started; returns its record, None if nothing ran.

    What it kept in Redis goes as well: only a head that was not ended on purpose comes back with its state.
    Raises Unavailable, before anything is ended, when the settings name another Redis than `up` was given, or none.
    """
    with _exclusive():
        record = read_record()
        if record is None:
            return None
        _require_same_redis(record)
        was_running = bool(processes(record))
        _kill(record)
        # If it fails, the record stays, and so does the way to do it again.
        forget(settings(), record.address)
        record_path().unlink()
        return record if was_running else None


def is_ready(record: HeadRecord) -> bool:
    """Whether the head runs, its jobs API answers and jobs have a node to run on."""
    try:
        return is_alive(record) and dashboard.has_living_node(record.dashboard_url)
    except Unavailable:
        return False


def wait_until_ready(record: HeadRecord) -> None:
    """Raises Unavailable, with what was said last, when the head ended or did not answer in time."""
    deadline = time.monotonic() + START_DEADLINE_S
    while not is_ready(record):
        if not is_alive(record):
            words = last_line_of(log_path(), SILENT)
            raise Unavailable(f"the Ray head ended while starting: {words}; all of it is in {log_path()}")
        if time.monotonic() > deadline:
            # The jobs API is the dashboard's. Where that failed alone the head waits for it, and says nothing.
            logs = record.temp_dir / "session_latest" / "logs"
            raise Unavailable(
                f"the Ray head did not answer at {record.dashboard_url} within {START_DEADLINE_S:.0f} s; its "
                f"dashboard said last: {last_line_of(logs / 'dashboard.log', SILENT)}; see {log_path()} and {logs}"
            )
        time.sleep(0.1)


def _end(record: HeadRecord) -> None:
    _kill(record)
    record_path().unlink(missing_ok=True)


def _kill(record: HeadRecord) -> None:
    """End every process of the head: the supervisor ends its own first, then whatever is left is killed."""
    family = processes(record)
    if is_alive(record):
        supervisor = psutil.Process(record.pid)
        supervisor.terminate()
        psutil.wait_procs([supervisor], timeout=STOP_DEADLINE_S)
    deadline = time.monotonic() + KILL_DEADLINE_S
    # Repeated, because what is being killed may just have started another.
    while remaining := {*processes(record), *(one for one in family if is_living(one))}:
        if time.monotonic() > deadline:
            pids = ", ".join(str(process.pid) for process in remaining)
            raise Unavailable(f"processes {pids} of the Ray head do not end; end them by hand")
        for process in remaining:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        psutil.wait_procs(remaining, timeout=1.0)


def _require_same_versions(record: HeadRecord) -> None:
    ours = (version("ray"), platform.python_version())
    if ours != (record.ray_version, record.python_version):
        raise Conflict(
            f"the running head has Ray {record.ray_version} on Python {record.python_version}, this environment "
            f"has Ray {ours[0]} on Python {ours[1]}; end it with python -m cluster down, then run up again"
        )


def _require_same_redis(record: HeadRecord) -> None:
    if record.redis is not None and redis_address(settings()) != record.redis:
        raise Unavailable(
            f"the head keeps its state in the Redis at {record.redis}, and the next up would go on from it; set "
            "HAMLET_REDIS_URL (and HAMLET_HOST) as for up, then run python -m cluster down again"
        )


def _require_free_port(port: int, variable: str) -> None:
    host = str(settings().host)
    deadline = time.monotonic() + RELEASE_DEADLINE_S
    while not (is_free := port_is_free(host, port)) and not port_owner(port) and time.monotonic() < deadline:
        time.sleep(0.05)
    if is_free:
        return
    try:
        ray_version = dashboard.ray_version(f"http://{host}:{port}", timeout_s=2.0)
        other = f"a Ray {ray_version} that was not started from this HAMLET_HOME"
    except dashboard.TokenRefused:
        other = "a Ray with another token"
    except Unavailable:
        other = port_owner(port) or "another program"
    raise Conflict(f"port {port} is used by {other}; stop it or set {variable} to a free port", variable)


@contextmanager
def _exclusive() -> Iterator[None]:
    """One `up` or `down` of a home at a time; the second waits and then finds what the first did."""
    home = settings().home_dir
    try:
        home.mkdir(parents=True, exist_ok=True)
        lock = (home / "cluster.lock").open("w")
    except OSError as exc:
        raise Unavailable(
            f"cannot write to {home} ({exc.strerror}); set HAMLET_HOME to a folder of yours"
        ) from exc
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
