"""How much one key and one tenant may ask for: rates of requests and tokens.

Rates are buckets that refill evenly. A request is let in while both of its caller's buckets hold something;
its tokens are taken once they are known, at its end or before, if need be on credit, which later requests wait for.
Every router has buckets of its own, each an equal part of the limit: nobody is asked while a request waits.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from cluster.errors import Overloaded
from serving.config import LimitsConfig

# What is counted, as in the names of the headers that tell it.
UNITS = ("requests", "tokens")


class Bucket:
    """One of `num_buckets` that together let in `per_minute` units, refilled evenly. Belongs to one event loop."""

    def __init__(
        self, per_minute: float, clock: Callable[[], float] = time.monotonic, num_buckets: int = 1
    ) -> None:
        self.per_minute = per_minute
        self.num_buckets = num_buckets
        self._clock = clock
        self._level = self.capacity
        self._at = clock()

    @property
    def capacity(self) -> float:
        """Units when full: a whole one fits, however small its part, or none would ever be let in."""
        return max(1.0, self.per_minute / self.num_buckets)

    @property
    def level(self) -> float:
        """Units that are there now; below 0 while credit is paid back."""
        now = self._clock()
        self._level = min(self.capacity, self._level + (now - self._at) * self._per_second)
        self._at = now
        return self._level

    @property
    def remaining(self) -> float:
        """What all buckets let in now, if they are as full as this one."""
        return min(self.per_minute, math.floor(self.level) * self.num_buckets)

    def take(self, units: float) -> None:
        self._level = self.level - units

    def wait_s(self, units: float) -> float:
        """Seconds until so many units are there, 0 when they are.

        >>> bucket = Bucket(60, clock=lambda: 0.0); bucket.take(60); bucket.wait_s(1)
        1.0
        """
        return max(0.0, (units - self.level) / self._per_second)

    @property
    def _per_second(self) -> float:
        return self.per_minute / self.num_buckets / 60


class Rate(NamedTuple):
    """A bucket with what it counts and whom it is for."""

    unit: str  # one of UNITS
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
                    f"the {rate.holder} has used up its {rate.bucket.per_minute:g} {rate.unit} a minute; "
                    f"try again in {math.ceil(wait_s)} s",
                    code="rate_limit_exceeded",
                    retry_after_s=wait_s,
                )
        self._take("requests", 1)

    def spend(self, num_tokens: int) -> None:
        """Take the tokens of an answer."""
        self._take("tokens", num_tokens)

    def headers(self) -> dict[str, str]:
        """OpenAI's `x-ratelimit-*` of the tighter limit of each unit."""
        headers = {}
        for unit in UNITS:
            buckets = [rate.bucket for rate in self.rates if rate.unit == unit]
            if buckets:
                tight = min(buckets, key=lambda bucket: bucket.remaining)
                headers[f"x-ratelimit-limit-{unit}"] = f"{tight.per_minute:.0f}"
                headers[f"x-ratelimit-remaining-{unit}"] = f"{max(0, tight.remaining):.0f}"
                headers[f"x-ratelimit-reset-{unit}"] = f"{tight.wait_s(tight.capacity):.3f}s"
        return headers

    def _take(self, unit: str, amount: int) -> None:
        for rate in self.rates:
            if rate.unit == unit:
                rate.bucket.take(amount)


class Limits:
    """The buckets of all callers in this router.

    `num_routers` share each limit. It may change at any time, from any thread, and holds from the next request on.
    """

    def __init__(
        self, config: LimitsConfig, num_routers: int = 1, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.num_routers = num_routers
        self._clock = clock
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
            self._rates[name] = Rate(unit, kind, Bucket(per_minute, self._clock, self.num_routers))
        rate = self._rates[name]
        rate.bucket.num_buckets = self.num_routers
        return rate
