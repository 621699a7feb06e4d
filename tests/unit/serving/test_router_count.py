from __future__ import annotations

import time
from collections.abc import Callable

from starlette.testclient import TestClient

from serving.authentication import Gate
from serving.config import FineTuningConfig, LimitsConfig, ServingConfig
from serving.limits import Limits
from serving.platform import Platform
from serving.scripted_parts import ScriptedApplication


def _until(check: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not check():
        assert time.monotonic() < deadline, "it has not happened in time"
        time.sleep(0.01)


def test_two_routers_share_a_limit_and_the_last_one_has_it_alone() -> None:
    config = ServingConfig(
        fine_tuning=FineTuningConfig(launcher="local"), limits=LimitsConfig(requests_per_minute_per_key=4)
    )
    limits = [Limits(config.limits, clock=lambda: 0.0) for _ in range(2)]
    first, second = (
        ScriptedApplication(config=config, gate=Gate(limits=one), platform=Platform.of(config)).app
        for one in limits
    )
    with TestClient(first) as one:
        with TestClient(second) as other:
            _until(lambda: [limit.num_routers for limit in limits] == [2, 2])
            answers = [client.get("/v1/models") for client in (one, other) * 4]
            assert [answer.status_code for answer in answers] == [200] * 4 + [429] * 4
            assert answers[0].headers["x-ratelimit-limit-requests"] == "4"
        _until(lambda: limits[0].num_routers == 1)
