from __future__ import annotations

from contextlib import suppress

import pytest

from cluster.errors import Overloaded
from serving.config import LimitsConfig
from serving.limits import Bucket, Limits


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_a_bucket_refills_evenly_and_never_overflows(clock: Clock) -> None:
    bucket = Bucket(60, clock)
    bucket.take(60)
    clock.now = 10
    assert bucket.level == pytest.approx(10)
    clock.now = 1000
    assert bucket.level == 60


def test_requests_of_a_key_are_refused_when_its_minute_is_used_up_and_let_in_again(clock: Clock) -> None:
    limits = Limits(LimitsConfig(requests_per_minute_per_key=2), clock=clock)
    for _ in range(2):
        limits.allowance("key_1", "ann").admit()
    with pytest.raises(Overloaded, match="2 requests a minute") as refused:
        limits.allowance("key_1", "ann").admit()
    assert refused.value.retry_after_s == pytest.approx(30)
    limits.allowance("key_2", "ann").admit()
    clock.now = 30
    limits.allowance("key_1", "ann").admit()


def test_keys_of_one_project_share_its_limit(clock: Clock) -> None:
    limits = Limits(LimitsConfig(requests_per_minute_per_tenant=2), clock=clock)
    limits.allowance("key_1", "ann").admit()
    limits.allowance("key_2", "ann").admit()
    with pytest.raises(Overloaded, match="project"):
        limits.allowance("key_3", "ann").admit()
    limits.allowance("key_4", "bob").admit()


def test_a_refused_request_uses_nothing_up(clock: Clock) -> None:
    limits = Limits(
        LimitsConfig(requests_per_minute_per_key=1, requests_per_minute_per_tenant=10), clock=clock
    )
    allowance = limits.allowance("key_1", "ann")
    allowance.admit()
    for _ in range(20):
        with pytest.raises(Overloaded, match="key"):
            allowance.admit()
    limits.allowance("key_2", "ann").admit()


def test_tokens_are_taken_at_the_end_and_paid_back_before_the_next_request(clock: Clock) -> None:
    limits = Limits(LimitsConfig(tokens_per_minute_per_key=100), clock=clock)
    allowance = limits.allowance("key_1", "ann")
    allowance.admit()
    allowance.spend(150)
    with pytest.raises(Overloaded, match="tokens"):
        allowance.admit()
    clock.now = 30.7
    allowance.admit()


def test_headers_tell_of_the_tighter_limit(clock: Clock) -> None:
    config = LimitsConfig(requests_per_minute_per_key=60, requests_per_minute_per_tenant=600)
    allowance = Limits(config, clock=clock).allowance("key_1", "ann")
    allowance.admit()
    assert allowance.headers() == {
        "x-ratelimit-limit-requests": "60",
        "x-ratelimit-remaining-requests": "59",
        "x-ratelimit-reset-requests": "1.000s",
    }


def test_several_routers_together_grant_no_more_than_one(clock: Clock) -> None:
    config = LimitsConfig(requests_per_minute_per_key=4)
    routers = [Limits(config, num_routers=2, clock=clock) for _ in range(2)]
    admitted = 0
    for number in range(20):
        try:
            routers[number % 2].allowance("key_1", "ann").admit()
            admitted += 1
        except Overloaded:
            pass
    assert admitted == 4


def test_a_limit_below_one_for_each_router_holds_for_all_of_them(clock: Clock) -> None:
    config = LimitsConfig(requests_per_minute_per_key=1)
    routers = [Limits(config, num_routers=2, clock=clock) for _ in range(2)]
    admitted = 0
    for second in range(600):
        clock.now = second
        for router in routers:
            with suppress(Overloaded):
                router.allowance("key_1", "ann").admit()
                admitted += 1
    assert admitted <= 10 + 2  # a full bucket in each to begin with


def test_a_router_that_is_left_alone_grants_the_whole_limit(clock: Clock) -> None:
    config = LimitsConfig(requests_per_minute_per_key=60)
    limits = Limits(config, num_routers=2, clock=clock)
    for _ in range(30):
        limits.allowance("key_1", "ann").admit()
    with pytest.raises(Overloaded, match="60 requests a minute"):
        limits.allowance("key_1", "ann").admit()
    limits.num_routers = 1
    limits.allowance("key_1", "ann")
    clock.now = 60
    headers = limits.allowance("key_1", "ann").headers()
    assert headers["x-ratelimit-limit-requests"] == headers["x-ratelimit-remaining-requests"] == "60"


def test_headers_of_one_router_of_several_tell_of_the_whole_limit(clock: Clock) -> None:
    allowance = Limits(LimitsConfig(requests_per_minute_per_key=60), 2, clock).allowance("key_1", "ann")
    allowance.admit()
    headers = allowance.headers()
    assert headers["x-ratelimit-limit-requests"] == "60"
    assert headers["x-ratelimit-remaining-requests"] == "58"  # the other router is thought to be as busy


def test_without_limits_nothing_is_counted() -> None:
    allowance = Limits(LimitsConfig()).allowance("key_1", "ann")
    for _ in range(1000):
        allowance.admit()
    assert allowance.headers() == {}
