"""The real Ray head: what it listens on, who it answers, and that it ends without a trace."""

from __future__ import annotations

import psutil

from cluster.head_record import HeadRecord, processes
from cluster.connection import connect, is_up


def test_every_port_of_the_head_is_on_the_loopback_interface(head: HeadRecord) -> None:
    pids = {process.pid for process in processes(head)}
    listening = [
        connection.laddr
        for connection in psutil.net_connections("tcp")
        if connection.pid in pids and connection.status == psutil.CONN_LISTEN
    ]
    assert len(listening) >= 5
    assert {address.ip for address in listening} <= {"127.0.0.1", "::ffff:127.0.0.1"}


def test_connect(head):
    assert is_up()
    connect()
    import ray

    assert ray.cluster_resources()["CPU"] == 4
