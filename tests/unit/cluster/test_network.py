"""Which interface owns a Ray address."""

from __future__ import annotations

import re

import pytest

from cluster.errors import ConfigError
from cluster.network import communication_environment, interface_table, owning_interface

TABLE = {
    "lo": ["127.0.0.1", "::1"],
    "eth0": ["10.200.0.1", "fd00::1", "fe80::5054:ff:fe12:3456%eth0"],
    "eth1": ["192.168.7.2"],
}


@pytest.mark.parametrize(
    ("address", "interface"),
    [
        ("10.200.0.1", "eth0"),
        ("192.168.7.2", "eth1"),
        ("fd00::1", "eth0"),
        ("FD00:0::0:1", "eth0"),
        ("fe80::5054:ff:fe12:3456", "eth0"),
        ("::ffff:10.200.0.1", "eth0"),
        ("127.0.0.1", "lo"),
        ("127.0.1.1", "lo"),  # Debian's address of the host's own name
        ("::1", "lo"),
    ],
)
def test_the_interface_that_has_the_address_is_found(address: str, interface: str) -> None:
    assert owning_interface(address, TABLE) == interface


def test_an_address_of_no_interface_is_an_error_that_lists_what_there_is() -> None:
    with pytest.raises(ConfigError, match=r"address 10\.0\.0\.9 .*eth1 192\.168\.7\.2.*--node-ip-address"):
        owning_interface("10.0.0.9", TABLE)


def test_a_host_name_is_not_an_address() -> None:
    with pytest.raises(ConfigError, match="'head' is not an IP address"):
        owning_interface("head", TABLE)


def test_nccl_gets_the_exact_name_since_it_would_take_eth1_for_eth10(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.network.interface_table", lambda: TABLE)
    assert communication_environment("192.168.7.2") == {
        "GLOO_SOCKET_IFNAME": "eth1",
        "NCCL_SOCKET_IFNAME": "=eth1",
        "TP_SOCKET_IFNAME": "eth1",
    }


def test_what_the_user_has_set_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.network.interface_table", lambda: TABLE)
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "ib0")
    environment = communication_environment("192.168.7.2")
    assert environment["GLOO_SOCKET_IFNAME"] == "ib0"
    assert environment["NCCL_SOCKET_IFNAME"] == "=eth1"


def test_this_machine_has_a_loopback_interface_and_no_hardware_addresses_in_its_table() -> None:
    table = interface_table()
    assert owning_interface("127.0.0.1", table)
    hardware = re.compile(r"([0-9a-f]{2}:){5}[0-9a-f]{2}")
    assert not [
        address for addresses in table.values() for address in addresses if hardware.fullmatch(address)
    ]
