"""What Ray is told of the Redis that keeps a head's state."""

from __future__ import annotations

import subprocess
from typing import Any

import pytest

from cluster.errors import Unavailable
from cluster.head_redis import forget, redis_environment, redis_options
from cluster.settings import Settings


def test_without_a_redis_ray_is_told_nothing() -> None:
    assert redis_environment(Settings()) == {}
    assert redis_options(Settings()) == []
    forget(Settings(), "127.0.0.1:6379")


def test_the_state_is_kept_under_the_heads_address() -> None:
    config = Settings(host="10.0.0.1", ray_port=6380, redis_url="redis://10.0.0.5")
    assert redis_environment(config) == {
        "RAY_REDIS_ADDRESS": "10.0.0.5:6379",
        "RAY_external_storage_namespace": "10.0.0.1:6380",
    }


def test_tls_and_an_encoded_password_reach_ray_as_it_reads_them() -> None:
    config = Settings(host="10.0.0.1", redis_url="rediss://ray:a%2Fb%40c@redis:7000")
    assert redis_environment(config)["RAY_REDIS_ADDRESS"] == "rediss://redis:7000"
    assert redis_options(config) == ["--redis-username=ray", "--redis-password=a/b@c"]


def test_a_state_that_cannot_be_removed_is_said_to_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        assert '"password": "sesame"' in options["input"]  # and not on the command line, which others see
        assert "sesame" not in " ".join(command)
        assert '"storage_namespace": "10.0.0.1:6380"' in options["input"]  # as the head had it
        return subprocess.CompletedProcess(command, -6)

    monkeypatch.setattr(subprocess, "run", refuse)
    with pytest.raises(Unavailable, match=r"the Redis at 10\.0\.0\.5:6379 .*python -m cluster down again"):
        forget(Settings(host="10.0.0.1", redis_url="redis://:sesame@10.0.0.5"), "10.0.0.1:6380")
