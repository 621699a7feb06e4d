"""The head's state in Redis (HAMLET_REDIS_URL): what Ray is told of it, and how it is forgotten.

With it, a head that was killed comes back under the same address with its nodes, jobs and Serve
applications; without, they are gone with its memory. The state is kept under the head's address, which
its workers call again.
"""

from __future__ import annotations

import json
import subprocess
import sys
from urllib.parse import unquote

from cluster.errors import Unavailable
from cluster.settings import Settings

FORGET_LIMIT_S = 30.0

_FORGET = """
import json, sys
from ray._private.gcs_utils import cleanup_redis_storage
sys.exit(0 if cleanup_redis_storage(**json.load(sys.stdin)) else 1)
"""


def redis_address(config: Settings) -> str | None:
    """host:port of the Redis, None without one."""
    url = config.redis_url
    return None if url is None else f"{url.host}:{url.port}"


def redis_environment(config: Settings) -> dict[str, str]:
    """What the head needs in its environment; empty without a Redis."""
    url = config.redis_url
    if url is None:
        return {}
    scheme = "rediss://" if url.scheme == "rediss" else ""
    return {
        "RAY_REDIS_ADDRESS": f"{scheme}{redis_address(config)}",
        "RAY_external_storage_namespace": f"{config.host}:{config.ray_port}",
    }


def redis_options(config: Settings) -> list[str]:
    """Options of `ray start`: Ray takes name and password of its Redis no other way, so `ps` shows them."""
    url = config.redis_url
    if url is None:
        return []
    given = {"username": url.username, "password": url.password}
    return [f"--redis-{name}={unquote(value)}" for name, value in given.items() if value]


def forget(config: Settings, address: str) -> None:
    """Remove the state of the head at `address` (host:port) from the Redis of these settings, if they name one.

    Raises Unavailable.
    """
    url = config.redis_url
    if url is None:
        return
    arguments = {
        "host": url.host,
        "port": url.port,
        "username": unquote(url.username or ""),
        "password": unquote(url.password or ""),
        "use_ssl": url.scheme == "rediss",
        "storage_namespace": address,
    }
    # In a process of its own: Ray's C++ ends the one in which Redis cannot be reached.
    command = [sys.executable, "-c", _FORGET]
    try:
        result = subprocess.run(
            command, input=json.dumps(arguments), capture_output=True, text=True, timeout=FORGET_LIMIT_S
        )
        is_forgotten = result.returncode == 0
    except subprocess.TimeoutExpired:
        is_forgotten = False
    if not is_forgotten:
        raise Unavailable(
            f"the head has ended, but its state in the Redis at {redis_address(config)} could not be removed, and "
            "the next up would go on from it; see to that Redis, then run python -m cluster down again"
        )
