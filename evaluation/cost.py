"""What answering costs: seconds of the machine turned into money and energy by the user's own prices. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from evaluation.config import CostConfig

TOKENS_QUOTED = 10_000


@dataclass(frozen=True)
class CellCost:
    """One cell. `fixed_s` are spent once, on training and ingesting; `query_s` on each query."""

    cell: str
    training_s: float
    ingest_s: float
    query_s: float
    fixed_money: float
    query_money: float
    money_per_10k_tokens: float
    fixed_wh: float
    query_wh: float

    @property
    def fixed_s(self) -> float:
        return self.training_s + self.ingest_s

    def money(self, num_queries: int) -> float:
        return self.fixed_money + num_queries * self.query_money


@dataclass(frozen=True)
class BreakEven:
    """From so many queries on, `dearer_at_first` is the cheaper one of two cells; None for never."""

    dearer_at_first: str
    other: str
    num_queries: float | None


def cell_cost(
    cell: str, prices: CostConfig, training_s: float, ingest_s: float, query_s: float, tokens_per_query: float
) -> CellCost:
    """Prices times seconds.

    3600 s of training at 0.50 an hour and 60 W, queries of 1.8 s with 90 tokens: 0.50 and 60 Wh once,
    0.00025 and 0.03 Wh each, and 0.0278 for 10,000 tokens.
    """
    hourly, fixed_s = prices.price_per_hour, training_s + ingest_s
    query_money = query_s / 3600 * hourly
    return CellCost(
        cell=cell,
        training_s=training_s,
        ingest_s=ingest_s,
        query_s=query_s,
        fixed_money=fixed_s / 3600 * hourly,
        query_money=query_money,
        money_per_10k_tokens=query_money / max(tokens_per_query, 1) * TOKENS_QUOTED,
        fixed_wh=fixed_s / 3600 * prices.watts,
        query_wh=query_s / 3600 * prices.watts,
    )


def break_evens(costs: Sequence[CellCost]) -> list[BreakEven]:
    """For each two cells of which one costs more at first: where they draw level.

    Fixed 100 s and 1 s each against 0 s and 3 s each: 100 / (3 - 1) = 50 queries; with 3 s each, never.
    """
    found = []
    for first, second in combinations(costs, 2):
        dear, cheap = (first, second) if first.fixed_s >= second.fixed_s else (second, first)
        saved_s = cheap.query_s - dear.query_s
        if dear.fixed_s > cheap.fixed_s:
            queries = (dear.fixed_s - cheap.fixed_s) / saved_s if saved_s > 0 else None
            found.append(BreakEven(dear.cell, cheap.cell, queries))
    return found


def fixed_seconds_per_query(costs: Sequence[CellCost], prices: CostConfig) -> Mapping[str, float]:
    """What each query bears of training and ingesting."""
    return {cost.cell: cost.fixed_s / prices.queries for cost in costs}
