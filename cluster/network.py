"""The network interface that torch's collectives must use on this node.

Gloo takes the address that the host's name resolves to, which is often 127.0.0.1: fine on one host,
fatal on several. The interface that owns the node's Ray address is reachable by the others, since Ray
itself talks over it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address

import psutil

from cluster.errors import ConfigError


def communication_environment(node_address: str | None = None) -> dict[str, str]:
    """GLOO_SOCKET_IFNAME, NCCL_SOCKET_IFNAME and TP_SOCKET_IFNAME for this node.

    `node_address` is the node's Ray address, by default asked of Ray (for which this process must be
    connected). What the user has set stays. Raises ConfigError when no interface owns the address.
    """
    if node_address is None:
        import ray.util

        node_address = str(ray.util.get_node_ip_address())
    interface = owning_interface(node_address, interface_table())
    wanted = {
        "GLOO_SOCKET_IFNAME": interface,
        # NCCL takes a name as a prefix, so that eth1 would also mean eth10; `=` asks for the exact one.
        "NCCL_SOCKET_IFNAME": f"={interface}",
        "TP_SOCKET_IFNAME": interface,
    }
    return {name: os.environ.get(name) or value for name, value in wanted.items()}


def owning_interface(address: str, table: Mapping[str, Sequence[str]]) -> str:
    """The interface in `table` (name -> its addresses) that has `address`, IPv4 or IPv6.

    >>> owning_interface("10.0.0.7", {"lo": ["127.0.0.1"], "eth0": ["10.0.0.7", "fe80::1%eth0"]})
    'eth0'
    """
    wanted = _parse(address)
    if wanted is None:
        raise ConfigError(
            f"{address!r} is not an IP address; start Ray with --node-ip-address", "node_address"
        )
    for name, addresses in table.items():
        if wanted in map(_parse, addresses):
            return name
    # All of 127.0.0.0/8 is the loopback interface's, though it lists only 127.0.0.1.
    if wanted.is_loopback:
        for name, addresses in table.items():
            if any(parsed is not None and parsed.is_loopback for parsed in map(_parse, addresses)):
                return name
    known = " | ".join(f"{name} {', '.join(addresses)}" for name, addresses in table.items())
    raise ConfigError(
        f"no network interface of this node has its Ray address {address} (there are {known}); "
        "start Ray with --node-ip-address set to one of them, or set GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME",
        "node_address",
    )


def interface_table() -> dict[str, list[str]]:
    """Interface -> its IPv4 and IPv6 addresses, as the system lists them."""
    table = {
        name: [entry.address for entry in entries if _parse(entry.address) is not None]
        for name, entries in psutil.net_if_addrs().items()
    }
    return {name: addresses for name, addresses in table.items() if addresses}


def _parse(address: str) -> IPv4Address | IPv6Address | None:
    """An address without its scope (`%eth0`), an IPv4 one inside IPv6 as IPv4; None for a hardware address."""
    try:
        parsed = ip_address(address.split("%", 1)[0])
    except ValueError:
        return None
    return getattr(parsed, "ipv4_mapped", None) or parsed
