"""How much one key and one tenant may ask for: rates of requests and tokens.

Rates are buckets that refill evenly. A request is let in while both of its caller's buckets hold something;
its tokens are taken once they are known, at its end or before, if need be on credit, which later requests wait for.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from cluster.errors import Overloaded
from serving.config import LimitsConfig


class Bucket:
    """`capacity` units, refilled evenly within a minute. Belongs to one event loop."""

    def __init__(self, capacity: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.capacity = capacity
        self._clock = clock
        self._level = capacity
        self._at = clock()

    @property
    def level(self) -> float:
        """Units that are there now; below 0 while credit is paid back."""
        now = self._clock()
        self._level = min(self.capacity, self._level + (now - self._at) * self.capacity / 60)
        self._at = now
        return self._level

    def take(self, units: float) -> None:
        self._level = self.level - units

    def wait_s(self, units: float) -> float:
        """Seconds until so many units are there, 0 when they are.

        >>> bucket = Bucket(60, clock=lambda: 0.0); bucket.take(60); bucket.wait_s(1)
        1.0
        """
        return max(0.0, (units - self.level) * 60 / self.capacity)


class Rate(NamedTuple):
    """A bucket with what it counts and whom it is for."""

    unit: str  # requests, tokens
    holder: str  # key, project
    bucket: Bucket


@dataclass(frozen=True, slots=True)
class Allowance:
    """What one caller may still ask for, at the time of one request."""

    rates: tuple[Rate, ...]

    def admit(self) -> None:
        """Count a request. Raises Overloaded while a bucket lacks one unit, and counts nothing then."""
        for rate in self.rates:
            wait_s = rate.bucket.wait_s(1)
            if wait_s > 0:
                raise Overloaded(
                    f"the {rate.holder} has used up its {rate.bucket.capacity:g} {rate.unit} a minute; "
                    f"try again in {math.ceil(wait_s)} s",
                    code="rate_limit_exceeded",
                    retry_after_s=wait_s,
                )
        self._take("requests", 1)

    def spend(self, num_tokens: int) -> None:
        """Take the tokens of an answer."""
        self._take("tokens", num_tokens)

    def headers(self) -> dict[str, str]:
        """OpenAI's `x-ratelimit-*` of the tighter bucket of each unit."""
        headers = {}
        for unit in ("requests", "tokens"):
            buckets = [rate.bucket for rate in self.rates if rate.unit == unit]
            if buckets:
                tight = min(buckets, key=lambda bucket: bucket.level)
                headers[f"x-ratelimit-limit-{unit}"] = f"{tight.capacity:.0f}"
                headers[f"x-ratelimit-remaining-{unit}"] = str(max(0, math.floor(tight.level)))
                headers[f"x-ratelimit-reset-{unit}"] = f"{tight.wait_s(tight.capacity):.3f}s"
        return headers

    def _take(self, unit: str, amount: int) -> None:
        for rate in self.rates:
            if rate.unit == unit:
                rate.bucket.take(amount)


class Limits:
    """The buckets of all callers in this process.

    `num_routers` processes share a limit: each grants its part, so that together they never grant more.
    """

    def __init__(
        self, config: LimitsConfig, num_routers: int = 1, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._clock = clock
        self._num_routers = num_routers
        self._per_minute = {
            ("requests", "key"): config.requests_per_minute_per_key,
            ("tokens", "key"): config.tokens_per_minute_per_key,
            ("requests", "project"): config.requests_per_minute_per_tenant,
            ("tokens", "project"): config.tokens_per_minute_per_tenant,
        }
        # One entry for each valid key and its tenant: callers cannot make more of them up.
        self._rates: dict[tuple[str, str, str], Rate] = {}

    def allowance(self, key_id: str, tenant: str) -> Allowance:
        """The buckets of a key and of its tenant."""
        holders = {"key": key_id, "project": tenant}
        return Allowance(
            tuple(
                self._rate(unit, kind, holders[kind], per_minute)
                for (unit, kind), per_minute in self._per_minute.items()
                if per_minute is not None
            )
        )

    def _rate(self, unit: str, kind: str, holder: str, per_minute: int) -> Rate:
        name = (unit, kind, holder)
        if name not in self._rates:
            capacity = max(1.0, per_minute / self._num_routers)
            self._rates[name] = Rate(unit, kind, Bucket(capacity, self._clock))
        return self._rates[name]
