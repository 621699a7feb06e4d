"""The lecture's table, fine-tuning against retrieval in six rows, filled with what was measured. Pure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from evaluation.adaptability import Way
from evaluation.config import retrieves
from evaluation.cost import CellCost
from evaluation.data_dependency import fraction
from evaluation.figures import CellFigures
from evaluation.results import Results
from evaluation.rows import ROW_MEANINGS, ROW_NAMES

NOT_MEASURED = "not measured"


@dataclass(frozen=True)
class Entry:
    """What one cell measured in one row: the figure to look at, and what stands behind it."""

    figure: str
    detail: str = ""
    is_best: bool = False


@dataclass(frozen=True)
class Row:
    name: str
    meaning: str
    entries: dict[str, Entry]  # by cell


def six_rows(results: Results) -> list[Row]:
    """All six rows; one that was not measured says so."""
    texts = {
        "customization": customization_texts,
        "data_dependency": data_texts,
        "computational_cost": cost_texts,
        "adaptability": adaptability_texts,
        "inference_time": time_texts,
        "scalability": load_texts,
    }
    rows = []
    for row, name in ROW_NAMES.items():
        scores = results.verdict.rows.get(row, {})
        found = texts[row](results) if scores else {}
        best = max(scores.values(), default=0.0)
        entries = {
            cell: Entry(
                *found.get(cell, (NOT_MEASURED, "")),
                is_best=best > 0 and scores.get(cell, 0.0) >= best - 1e-9,
            )
            for cell in results.config.cells
        }
        rows.append(Row(name, ROW_MEANINGS[row], entries))
    return rows


def customization_texts(results: Results) -> dict[str, tuple[str, str]]:
    def of(figures: CellFigures) -> tuple[str, str]:
        right, form = figures.measures["right"], figures.measures["in the form asked for"]
        assert right is not None  # every question is right or wrong
        return f"{right.mean:.0%} right", f"{form.mean:.0%} in the form asked for" if form else ""

    return {figures.cell: of(figures) for figures in results.cells}


def data_texts(results: Results) -> dict[str, tuple[str, str]]:
    texts = {}
    for cell in results.config.cells:
        own = sorted((point.share, point.right) for point in results.measured.data if point.cell == cell)
        if len(own) == 1:
            texts[cell] = ("needs none", f"{own[0][1]:.0%} right")
            continue
        shares = ", ".join(f"{right:.0%} with {fraction(share)}" for share, right in own[:-1])
        texts[cell] = (f"{own[-1][1]:.0%} with all", shares)
    return texts


def cost_texts(results: Results) -> dict[str, tuple[str, str]]:
    currency = results.config.cost.currency

    def once(cost: CellCost) -> str:
        spent = f"{money(cost.fixed_money)} {currency} once, {duration(cost.fixed_s)} of the machine"
        if results.measured.ingest_s is None and retrieves(results.config.cells[cost.cell]):
            return f"{spent}; ingesting not measured" if cost.fixed_s else "ingesting not measured"
        return spent if cost.fixed_s else "nothing at first"

    return {
        cost.cell: (f"{money(cost.query_money * 1000)} {currency} for 1,000 queries", once(cost))
        for cost in results.costs
    }


def adaptability_texts(results: Results) -> dict[str, tuple[str, str]]:
    adaptability = results.measured.adaptability
    assert adaptability is not None
    texts = {}
    for change in adaptability.changes:
        if change.seconds is not None:
            texts[change.cell] = (duration(change.seconds), change.way.value)
        elif change.way is Way.NOT_TRIED:
            texts[change.cell] = ("not tried", "needs training again")
        else:
            texts[change.cell] = (
                "never",
                f"{change.way.value}{'' if change.way is Way.NONE else ', still wrong'}",
            )
    return texts


def time_texts(results: Results) -> dict[str, tuple[str, str]]:
    return {
        figures.cell: (
            duration(figures.total.p50_ms / 1000),
            f"p99 {duration(figures.total.p99_ms / 1000)}, first token {figures.ttft.p50_ms:.0f} ms",
        )
        for figures in results.cells
    }


def load_texts(results: Results) -> dict[str, tuple[str, str]]:
    scalability = results.measured.scalability
    assert scalability is not None
    texts = {}
    for cell, answers_per_s in scalability.highest.items():
        own = sorted((load.at_once, load.answers_per_s) for load in scalability.loads if load.cell == cell)
        texts[cell] = (
            f"{answers_per_s:.1f} answers/s",
            f"with {own[-1][0]} in flight; {own[0][1]:.1f} with {own[0][0]}",
        )
    return texts


def duration(seconds: float) -> str:
    """0.25 -> "250 ms"; 4.2 -> "4.2 s"; 130 -> "2 min 10 s"; 27000 -> "7 h 30 min"."""
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    if seconds < 3600:
        return _two_units(round(seconds), "min", "s")
    return _two_units(round(seconds / 60), "h", "min")


def _two_units(count: int, large: str, small: str) -> str:
    """(130, "min", "s") -> "2 min 10 s"; (120, "min", "s") -> "2 min"."""
    whole, rest = divmod(count, 60)
    return f"{whole} {large} {rest} {small}" if rest else f"{whole} {large}"


def money(amount: float) -> str:
    """Two digits that count, never in powers of ten: 1234.5 -> "1,234.50", 0.00123 -> "0.0012", 0 -> "0"."""
    if amount >= 0.1:
        return f"{amount:,.2f}"
    return np.format_float_positional(amount, precision=2, fractional=False, trim="-")
