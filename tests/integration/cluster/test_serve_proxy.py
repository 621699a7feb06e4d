"""What Serve opens on our head: HAProxy in front, and nothing that answers others without the token."""

from __future__ import annotations

import time
from collections.abc import Iterator

import grpc
import httpx
import psutil
import pytest

from cluster.connection import connect
from cluster.head_record import HeadRecord, processes
from cluster.ports import free_port
from cluster.serve_proxy import haproxy_binary

LOOPBACK = {"127.0.0.1", "::ffff:127.0.0.1"}


@pytest.fixture
def url(head: HeadRecord) -> Iterator[str]:
    """Of a Serve application that answers `hello`."""
    connect()
    from ray import serve

    @serve.deployment(ray_actor_options={"num_cpus": 0.1})
    class Hello:
        async def __call__(self, request: object) -> str:
            return "hello"

    port = free_port("127.0.0.1")
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    serve.run(Hello.bind(), name="hello")
    yield f"http://127.0.0.1:{port}/"
    serve.shutdown()


def test_haproxy_answers_and_what_listens_on_other_interfaces_demands_the_token(
    head: HeadRecord, url: str
) -> None:
    deadline = time.monotonic() + 30
    while (answer := _get(url)) is None and time.monotonic() < deadline:
        time.sleep(0.1)
    assert answer == "hello"

    family = {process.pid: process for process in processes(head)}
    names = {process.name() for process in family.values()}
    assert ("haproxy" in names) == (haproxy_binary() is not None)

    listening = [
        c for c in psutil.net_connections("tcp") if c.pid in family and c.status == psutil.CONN_LISTEN
    ]
    outside = [c for c in listening if c.laddr.ip not in LOOPBACK]
    # Ray gives a replica no choice of interface for the calls of other deployments.
    assert {family[c.pid].name() for c in outside} <= {"ray::ServeReplica:hello:Hello", "ray::ServeRepli"}
    assert outside
    for connection in outside:
        _assert_token_is_demanded(connection.laddr.port)


def _get(url: str) -> str | None:
    try:
        response = httpx.get(url)
    except httpx.HTTPError:
        return None
    return response.text if response.status_code == 200 else None


def _assert_token_is_demanded(port: int) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = channel.unary_unary("/ray.serve.ASGIService/HandleRequest")
        with pytest.raises(grpc.RpcError) as refused:
            call(b"", timeout=10)
    assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
