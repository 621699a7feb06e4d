"""HAProxy's files, ports and the loopback interface."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from cluster import serve_proxy
from cluster.serve_proxy import proxy_environment


@pytest.fixture
def fake_binary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An HAProxy that prints the configuration it is given."""
    binary = tmp_path / "haproxy binary"
    binary.write_text('#!/bin/sh\ncat "$2"\n')
    binary.chmod(0o700)
    monkeypatch.setattr(serve_proxy, "haproxy_binary", lambda: binary)
    return binary


def test_without_a_binary_serve_keeps_its_own_proxy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve_proxy, "haproxy_binary", lambda: None)
    assert proxy_environment(tmp_path, "127.0.0.1") == {}


def test_its_pages_are_moved_to_the_loopback_interface_and_nothing_else(
    fake_binary: Path, tmp_path: Path
) -> None:
    environment = proxy_environment(tmp_path / "proxy", "127.0.0.1")
    metrics, stats = (environment[f"RAY_SERVE_HAPROXY_{page}_PORT"] for page in ("METRICS", "STATS"))
    config = tmp_path / "haproxy.cfg"
    config.write_text(f"    bind :{metrics}\n    bind *:8000\n    bind 10.0.0.1:443\n  bind *:{stats}\n")
    wrapper = environment["RAY_SERVE_HAPROXY_BINARY_PATH"]
    read = subprocess.run([wrapper, "-f", config], capture_output=True, text=True, check=True).stdout
    assert read == (
        f"    bind 127.0.0.1:{metrics}\n    bind *:8000\n    bind 10.0.0.1:443\n  bind 127.0.0.1:{stats}\n"
    )


def test_two_heads_share_neither_ports_nor_files(fake_binary: Path, tmp_path: Path) -> None:
    one, other = (proxy_environment(tmp_path / name, "127.0.0.1") for name in "ab")
    assert {name for name in one if one[name] == other[name]} == {
        "RAY_SERVE_ENABLE_HA_PROXY",
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S",
    }
