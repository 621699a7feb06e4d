"""What a run costs, two ways: workers by the hour, and hosted services by the token. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class HostedCost:
    """The price of a hosted service for a run, in the currency of its prices."""

    tokens: int
    input_cost: float
    training_cost: float

    @property
    def total(self) -> float:
        return round(self.input_cost + self.training_cost, 6)


def hosted_cost(
    tokens_per_epoch: int, epochs: float, *, input_price_per_1k: float, training_price_per_1k: float
) -> HostedCost:
    """Every token of every epoch is paid twice: as input and as training.

    tokens = tokens per epoch x epochs; cost = tokens / 1,000 x (input price + training price).

    >>> cost = hosted_cost(10_000, 3, input_price_per_1k=0.012, training_price_per_1k=0.016)
    >>> cost.tokens, cost.input_cost, cost.training_cost, cost.total
    (30000, 0.36, 0.48, 0.84)
    """
    tokens = round(tokens_per_epoch * epochs)
    return HostedCost(
        tokens,
        input_cost=round(tokens / 1000 * input_price_per_1k, 6),
        training_cost=round(tokens / 1000 * training_price_per_1k, 6),
    )


def worker_hours(seconds: float, num_workers: int) -> float:
    """Hours of one GPU (or CPU worker) that a run takes in all.

    >>> worker_hours(5400, 4)
    6.0
    """
    return seconds * num_workers / 3600
