"""Connecting this process to Ray: the head of this home, the job we run in, or what RAY_ADDRESS names."""

from __future__ import annotations

import logging
import os
import platform
import sys
from functools import cache
from importlib.metadata import version

from cluster import dashboard
from cluster.auth_token import AUTH_ENVIRONMENT, read_token
from cluster.errors import ConfigError, Unavailable
from cluster.head_process import LOOPBACK_ENVIRONMENT
from cluster.head_record import living_head
from cluster.ports import accepts_connections

NAMESPACE = "hamlet"

REMEDY = "start one with python -m cluster up, or set RAY_ADDRESS"


def cluster_address() -> str | None:
    """host:port of the cluster to use: RAY_ADDRESS (set inside every Ray job), else the head of this home."""
    given, record = os.environ.get("RAY_ADDRESS", ""), living_head()
    # `auto`, where Ray looks around by itself, does not tell it that our head is a loopback one.
    is_ours = given == "auto" and record is not None
    # `ray job submit` takes its http:// address from the same variable; ray.init does not.
    if given and not _is_http(given) and not is_ours:
        return given
    return record.address if record is not None else None


def require_address() -> str:
    """`cluster_address`, told at once. Raises Unavailable when there is none, or nothing listens there."""
    address = cluster_address()
    if address is None:
        raise Unavailable(f"no Ray cluster is running; {REMEDY}")
    _require_open(address)
    return address


def dashboard_url() -> str:
    """URL of the dashboard and jobs API: RAY_API_SERVER_ADDRESS, an http RAY_ADDRESS, or that of `cluster_address`.

    On a machine that is not the head's, the cluster itself is asked. Raises Unavailable when there is none.
    """
    for variable in ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"):
        if _is_http(given := os.environ.get(variable, "")):
            return given.rstrip("/")
    address, record = cluster_address() or _connected_address(), living_head()
    if address is None:
        raise Unavailable("no Ray head is running; start one with python -m cluster up")
    if record is not None and record.address == address:
        return record.dashboard_url
    return _dashboard_of(address)


def is_up() -> bool:
    """Whether there is a cluster to connect to. Does not import Ray and takes milliseconds."""
    address = cluster_address()
    return address is not None and _is_open(address)


def client_environment(for_http: bool = False, address: str | None = None) -> dict[str, str]:
    """What `ray` and `serve` need in their environment to reach the cluster at `address`, or `cluster_address`.

    `for_http`: only what their HTTP commands need (`ray job submit`, `serve deploy`), not `ray.init`.
    """
    environment = dict(AUTH_ENVIRONMENT) if read_token() is not None else {}
    if not for_http and is_loopback(address or cluster_address() or ""):
        environment |= LOOPBACK_ENVIRONMENT
    return environment


def prepare_client() -> None:
    """Set `client_environment` in this process, where the user has not; Ray reads it once, at import."""
    for name, value in client_environment().items():
        os.environ.setdefault(name, value)


def connect() -> None:
    """Connect this process to the cluster; does nothing when it is connected.

    Raises Unavailable when none runs, ConfigError when the cluster has other versions of Ray or Python.
    """
    address = require_address()
    _check_head(address)
    prepare_client()

    import ray
    from ray._private import ray_constants

    if ray.is_initialized():
        return
    if is_loopback(address):
        # For a caller that imported Ray before us, when the environment was not yet set.
        ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        # Worker output stays in the logs; what a user should read is sent, not printed.
        ray.init(address=address, namespace=NAMESPACE, logging_level=logging.WARNING, log_to_driver=False)
    except (ConnectionError, TimeoutError, ray.exceptions.RayError) as exc:
        # Ray tells a token that is refused apart from silence in its log only, or in a page of advice.
        raise Unavailable(f"no Ray cluster answers at {address}, or it refuses our token; {REMEDY}") from exc
    except RuntimeError as exc:
        if "ersion mismatch" in str(exc):
            # Ray's message names both versions, over several lines.
            text = " ".join(str(exc).split())
            raise ConfigError(f"{text}; use the cluster's versions here", "RAY_ADDRESS") from exc
        raise Unavailable(f"cannot connect to Ray at {address}: {exc}; {REMEDY}") from exc


def _check_head(address: str) -> None:
    """Compare versions and token before Ray connects: it would try for 20 s and then fail obscurely."""
    record = living_head()
    if record is None or record.address != address:
        return
    ours = (version("ray"), platform.python_version())
    if ours != (record.ray_version, record.python_version):
        raise ConfigError(
            f"the cluster at {address} has Ray {record.ray_version} on Python {record.python_version}, "
            f"this process has Ray {ours[0]} on Python {ours[1]}; use the same environment for both",
            "RAY_ADDRESS",
        )
    try:
        dashboard.ray_version(record.dashboard_url)
    except dashboard.TokenRefused:
        raise
    except Unavailable:
        return  # a busy dashboard is not a cluster that is down


def _connected_address() -> str | None:
    """The cluster that this process is a replica, worker or driver of. Does not import Ray."""
    ray = sys.modules.get("ray")
    if ray is None or not ray.is_initialized():
        return None
    return str(ray.get_runtime_context().gcs_address)


@cache
def _dashboard_of(address: str) -> str:
    """Where the cluster at `address` says its dashboard is: kept, since asking waits while the head is away."""
    _require_open(address)
    prepare_client()
    from ray.dashboard.utils import get_address_for_submission_client
    from ray.exceptions import RayError

    try:
        return str(get_address_for_submission_client(address))
    except (OSError, RuntimeError, ValueError, RayError) as exc:
        raise Unavailable(f"no Ray cluster answers at {address}, or it refuses our token; {REMEDY}") from exc


def _is_open(address: str) -> bool:
    """Whether something listens at host:port; taken for granted of `auto`, where Ray looks for it."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    return not port.isdecimal() or accepts_connections(host.strip("[]"), int(port))


def _require_open(address: str) -> None:
    if not _is_open(address):  # Ray itself would try for a minute
        raise Unavailable(f"nothing listens at {address}; {REMEDY}")


def _is_http(address: str) -> bool:
    return address.startswith(("http://", "https://"))


def is_loopback(address: str) -> bool:
    """Whether only this machine reaches an address (host:port)."""
    return address.startswith(("127.", "localhost:", "[::1]:"))
