"""Starting the head's process: its folder, its environment and its command line.

`ray start --block` stays in the foreground and ends with the processes that it started, and they with it.
"""

from __future__ import annotations

import hashlib
import os
import platform
import secrets
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import psutil

from cluster.auth_token import AUTH_ENVIRONMENT
from cluster.errors import Conflict
from cluster.head_record import MARKER_VARIABLE, HeadRecord, write_record
from cluster.head_redis import redis_address, redis_environment, redis_options
from cluster.ports import free_port
from cluster.serve_proxy import proxy_environment
from cluster.settings import Settings, settings

# Ray replaces 127.0.0.1 by the machine's outer address, and its C++ processes then listen on every
# interface, unless it is told that this is not a cluster of several hosts. Clients need it as well, or
# they look for the head on the outer address.
LOOPBACK_ENVIRONMENT = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
# Ray Train watches in a process for each group of workers whether a node is drained; one that is alone never is.
ONE_NODE_ENVIRONMENT = {"RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0"}
# Said outright: a shell in which a loopback head was used may hold the other.
OUTER_ENVIRONMENT = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1"}

# What a user's own environment may say otherwise. Training, serving and their helpers share the cores and the
# memory of this machine, and runs end by themselves.
DEFAULT_ENVIRONMENT = {
    # A thread of OpenMP's that waits for its team spins for a millisecond by default, on a core that the others
    # need: beside one busy process, steps of training take about ten times as long. Sleeping sooner costs 4 %
    # when nothing else runs.
    "GOMP_SPINCOUNT": "10000",
    # Workers get the jemalloc that Ray brings for its own processes, and it keeps what a step frees for a minute.
    # glibc gives it back to the kernel, which clears it for the next step page by page: 88,000 page faults a step
    # of MiniLM.
    "RAY_LD_PRELOAD_ON_WORKERS": "1",
    "MALLOC_CONF": "oversize_threshold:0,dirty_decay_ms:60000,muzzy_decay_ms:60000,background_thread:true",
    # Serve looks round ten times a second by default, on the cores on which models compute.
    "RAY_SERVE_CONTROL_LOOP_INTERVAL_S": "0.5",
    "RAY_SERVE_METRICS_EXPORT_INTERVAL_MS": "2000",
    # Seconds after which a job that was asked to stop is killed; 3 by default, which is less than the step and the
    # checkpoint by which a run of a larger model ends.
    "RAY_JOB_STOP_WAIT_TIME_S": "120",
}

# In the shell that starts a head they name another one, to which its jobs would be sent.
OTHER_CLUSTER = frozenset({"RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "RAY_DASHBOARD_ADDRESS"})

NODE_ENVIRONMENT = {
    "RAY_TRAIN_V2_ENABLED": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    # Ray runs workers at nice 15, behind everything else on the machine; on a machine that is there to
    # answer, that costs a quarter of the embeddings per second.
    "RAY_worker_niceness": "0",
    **AUTH_ENVIRONMENT,
}

# The beginning of every node's command line.
RAY_START = (
    # Not the `ray` script: the one on the PATH may belong to another environment.
    *(sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--log-color=false"),
    # Nobody calls it by number, and Ray's fixed one would collide with another Ray on the machine.
    "--dashboard-agent-listen-port=0",
)

# Unix socket names are short: 103 bytes on macOS (107 on Linux), 97 for HAProxy's. In our folder lie
# `t/session_<date>_<pid>/sockets/plasma_store` (66 bytes) and `p/<node id>/s` (61 bytes).
MAX_FOLDER_LENGTH = 36


def start_head() -> HeadRecord:
    """Start the head in the background and write its record; it is not ready yet on return."""
    config = settings()
    host, temp = str(config.host), prepare_folder()
    num_cpus = logical_cpus(config.num_cpus, os.cpu_count() or 1)
    head_id = secrets.token_hex(8)
    log_path().parent.mkdir(parents=True, exist_ok=True)
    with log_path().open("wb") as output:
        process = subprocess.Popen(
            start_command(config, free_port(host), num_cpus, temp),
            env=node_environment() | redis_environment(config) | {MARKER_VARIABLE: head_id},
            cwd=temp,  # a `ray` or `cluster` folder in the user's would be imported instead
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # outlives this terminal, and its Ctrl-C is not the head's
        )
    record = HeadRecord(
        head_id=head_id,
        pid=process.pid,
        started_at_s=psutil.Process(process.pid).create_time(),
        address=f"{host}:{config.ray_port}",
        dashboard_url=f"http://{host}:{config.dashboard_port}",
        ray_version=version("ray"),
        python_version=platform.python_version(),
        num_cpus=num_cpus,
        temp_dir=temp,
        redis=redis_address(config),
    )
    write_record(record)
    return record


def start_command(config: Settings, client_port: int, num_cpus: int, temp: Path) -> list[str]:
    """The `ray start` that supervises the head's processes."""
    return [
        *RAY_START,
        "--head",
        f"--node-ip-address={config.host}",
        f"--port={config.ray_port}",
        f"--dashboard-host={config.host}",
        f"--dashboard-port={config.dashboard_port}",
        f"--ray-client-server-port={client_port}",  # Ray refuses 0 here
        f"--num-cpus={num_cpus}",
        f"--temp-dir={temp}",
        "--disable-usage-stats",
        *redis_options(config),
    ]


def logical_cpus(configured: int | None, cores: int) -> int:
    """How many CPUs Ray may hand out.

    At least 4: they are tickets, not cores. Serve's replicas and a training run hold theirs for as long
    as they live, so that with 2 on a laptop a job would wait for ever while a model is served.
    """
    return max(4, cores) if configured is None else configured


def private_folder(home: Path) -> Path:
    """Where Ray's files lie: below `home`, or in /tmp where that name is too long."""
    wanted = home / "ray"
    if len(os.fsencode(wanted)) <= MAX_FOLDER_LENGTH:
        return wanted
    digest = hashlib.sha256(os.fsencode(home)).hexdigest()[:8]
    # Not tempfile's folder: TMPDIR may be long as well, as it always is on macOS.
    return Path("/tmp") / f"hamlet-{os.getuid()}-{digest}"


def log_path() -> Path:
    """What the supervising process says."""
    return settings().home_dir / "ray" / "head.log"


def node_environment() -> dict[str, str]:
    """The environment of a node's processes, and so of the jobs and replicas on it."""
    config = settings()
    inherited = {name: value for name, value in os.environ.items() if name not in OTHER_CLUSTER}
    # Jobs are run as `python -m training …`: that must be this environment's Python, activated or not.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    # What HAProxy tells about itself is asked for on its own machine only.
    proxy = proxy_environment(private_folder(config.home_dir) / "p", "127.0.0.1")
    alone = LOOPBACK_ENVIRONMENT | ONE_NODE_ENVIRONMENT
    reach = alone if config.host.is_loopback else OUTER_ENVIRONMENT
    ours = {**NODE_ENVIRONMENT, **reach, **proxy, "PATH": path}
    # Paths as they are meant here: relative ones would mean others in the working directory of a job.
    places = {"HAMLET_HOME": str(config.home_dir), "HAMLET_STORAGE": config.storage_uri}
    ours |= {name: place for name, place in places.items() if name in inherited}
    return {**DEFAULT_ENVIRONMENT, **inherited, **ours}


def prepare_folder() -> Path:
    """Make the private folder of this home's node; returns the folder in it that Ray is given."""
    folder = private_folder(settings().home_dir)
    _make_private(folder)
    # A folder of its own, because Ray opens the one that it is given to everybody.
    temp = folder / "t"
    temp.mkdir(exist_ok=True)
    _remove_old_sessions(temp)
    return temp


def _make_private(folder: Path) -> None:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    # In a shared temp folder another user could have made it first, to read what Ray writes there.
    if folder.stat().st_uid != os.getuid():
        raise Conflict(
            f"{folder} belongs to another user; set HAMLET_HOME to a folder of yours with a short name"
        )
    folder.chmod(0o700)


def _remove_old_sessions(temp: Path) -> None:
    """Keep the logs of the last session; earlier ones would fill the disk."""
    sessions = sorted(path for path in temp.glob("session_2*") if path.is_dir())
    for session in sessions[:-1]:
        shutil.rmtree(session, ignore_errors=True)
