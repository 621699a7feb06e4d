"""A plan for people: estimate and measurement side by side."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

ABSENT = "-"


def show_plan(plan: dict[str, Any], console: Console) -> None:
    console.print(
        f"{plan['name']}: {plan['task']} of {plan['model']} ({plan['method']}), "
        f"{plan['num_workers']} worker{'s'[: plan['num_workers'] != 1]}, global batch {plan['global_batch_size']}"
    )
    console.print(_figures(plan))
    console.print(_memory(plan))
    for notice in plan["notices"]:
        console.print(notice)
    if plan["probe"] is None:
        console.print("no probe: time and worker hours are not estimated", style="dim")


def _figures(plan: dict[str, Any]) -> Table:
    measured = plan["measured"] or {}
    table = _table("", "estimate", f"measured ({measured['run']})" if measured else "measured")
    probe, cost = plan["probe"] or {}, plan["cost"]
    table.add_row("rows, training + validation", f"{plan['rows']:,} + {plan['validation_rows']:,}", ABSENT)
    table.add_row("tokens per epoch", f"{plan['tokens_per_epoch']:,}", ABSENT)
    table.add_row(f"tokens in all ({plan['epochs']:g} epochs)", f"{plan['tokens']:,}", ABSENT)
    table.add_row("trained tokens", f"{plan['trained_tokens']:,}", _number(measured.get("trained_tokens")))
    table.add_row("steps", f"{plan['steps']:,}", _number(measured.get("steps")))
    speed, took = probe.get("tokens_per_s"), measured.get("train_seconds")
    table.add_row("tokens/s of a worker", _number(speed), _speed(plan, measured))
    table.add_row("time in steps", _seconds(plan["train_seconds"]), _seconds(took))
    memory = plan["memory"]["worker_bytes"]
    table.add_row("peak memory of a worker", _gib(memory), _gib(measured.get("peak_memory_bytes")))
    table.add_row("worker hours", _number(cost["worker_hours"]), ABSENT)
    if cost["workers"] is not None:
        table.add_row("cost of the workers", f"{cost['workers']:.4f}", ABSENT)
    if cost["hosted"] is not None:
        hosted = cost["hosted"]
        parts = f"{hosted['input_cost']:.4g} + {hosted['training_cost']:.4g} = {hosted['total']:.4g}"
        table.add_row("hosted price, input + training", parts, ABSENT)
    return table


def _memory(plan: dict[str, Any]) -> Table:
    memory = plan["memory"]
    columns = max(memory["by_method_and_stage"].values(), key=len)
    table = _table("memory of a worker, GiB", *(f"ZeRO {stage}" for stage in columns))
    for method, stages in memory["by_method_and_stage"].items():
        cells = []
        for stage, estimate in stages.items():
            is_mine = method == plan["method"] and int(stage) == memory["zero_stage"]
            cells.append(f"{estimate['total'] / 2**30:.2f}" + ("*" if is_mine else ""))
        table.add_row(method, *cells)
    return table


def _table(first: str, *titles: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column(first)
    for title in titles:
        table.add_column(title, justify="right")
    return table


def _speed(plan: dict[str, Any], measured: dict[str, Any]) -> str:
    if not measured.get("tokens_per_s"):
        return ABSENT
    return _number(measured["tokens_per_s"] / measured.get("world_size", 1))


def _number(value: float | None) -> str:
    if value is None:
        return ABSENT
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"


def _seconds(value: float | None) -> str:
    return ABSENT if value is None else f"{value:,.0f} s"


def _gib(value: int | None) -> str:
    return ABSENT if not value else f"{value / 2**30:.2f} GiB"
