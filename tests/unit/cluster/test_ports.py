"""TCP ports of this machine."""

from __future__ import annotations

import os
import socket

from cluster.ports import accepts_connections, free_port, port_is_free, port_owner

HOST = "127.0.0.1"


def test_a_port_is_free_until_something_listens_there() -> None:
    port = free_port(HOST)
    assert port_is_free(HOST, port)
    assert not accepts_connections(HOST, port)
    assert port_owner(port) is None
    with socket.create_server((HOST, port)):
        assert not port_is_free(HOST, port)
        assert accepts_connections(HOST, port)
        assert f"(pid {os.getpid()})" in (port_owner(port) or "")
    assert port_is_free(HOST, port)


def test_a_server_on_every_interface_holds_the_port_too() -> None:
    port = free_port(HOST)
    with socket.create_server(("", port)):
        assert not port_is_free(HOST, port)
