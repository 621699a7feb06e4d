"""This machine as a worker of another machine's head: `python -m cluster join ADDRESS`.

It runs in the foreground, for a service manager or a container to watch, and ends with its `ray start`.
"""

from __future__ import annotations

import os
from pathlib import Path

from cluster.auth_token import read_token, token_path
from cluster.errors import ConfigError, Unavailable
from cluster.head_process import (
    OUTER_ENVIRONMENT,
    RAY_START,
    logical_cpus,
    node_environment,
    prepare_folder,
)
from cluster.ports import accepts_connections
from cluster.settings import Settings, settings

# How long a worker keeps its work while the head is away; Ray's own 60 s are short for a machine that is replaced.
HEAD_ABSENCE_LIMIT_S = 600


def join(address: str) -> None:
    """Become a node of the cluster whose head is at `address` (host:port); returns only by raising.

    Raises ConfigError without a token or for a malformed address, Unavailable when nothing listens there.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise ConfigError(f"{address!r} is not host:port; python -m cluster up prints the head's", "address")
    if read_token() is None:
        raise ConfigError(
            f"there is no Ray token in {token_path()}; copy it from the head's machine", "RAY_AUTH_TOKEN_PATH"
        )
    if not accepts_connections(host, int(port), timeout_s=5.0):
        raise Unavailable(
            f"nothing listens at {address}; start the head there with HAMLET_HOST={host} python -m cluster up"
        )
    config, temp = settings(), prepare_folder()
    os.chdir(temp)  # a `ray` or `cluster` folder in the user's would be imported instead
    environment = {
        **node_environment(),
        **OUTER_ENVIRONMENT,
        "RAY_gcs_rpc_server_reconnect_timeout_s": str(HEAD_ABSENCE_LIMIT_S),
    }
    command = join_command(config, address, logical_cpus(config.num_cpus, os.cpu_count() or 1), temp)
    os.execve(command[0], command, environment)


def join_command(config: Settings, address: str, num_cpus: int, temp: Path) -> list[str]:
    """The `ray start` of a worker. Without HAMLET_HOST its address is the one from which it reaches the head."""
    own = [] if config.host.is_loopback else [f"--node-ip-address={config.host}"]
    return [*RAY_START, f"--address={address}", *own, f"--num-cpus={num_cpus}", f"--temp-dir={temp}"]
