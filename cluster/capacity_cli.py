"""`python -m cluster capacity`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cluster.capacity import Figure, Part, Plan, plan
from cluster.capacity_load import GIB, Load
from cluster.speeds import MEASURED, with_measured
from cluster.yaml_config import load_yaml_config


def capacity(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(metavar="[LOAD.yaml] [key=value …]", help="A load file, keys of a load, or both."),
    ] = None,
    measured: Annotated[
        list[Path] | None,
        typer.Option(help="What a file of benchmarks/ wrote with --json on your machine; may be repeated."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the plan as JSON, memory in bytes.")] = False,
) -> None:
    """Replicas, CPUs, GPUs, memory, nodes and cost that a load needs, and what each number rests on.

    The load is a file (examples/capacity/), keys, or both, a key counting more:

        chat      requests_per_s, answer_tokens, prompt_tokens,
                  retrieving_share, concurrent_generations
        texts     embeddings_per_s, classifications_per_s, searches_per_s
        model     parameters, layers, kv_heads, head_dim, precision,
                  tokens_per_s, batch
        index     chunks, dimensions, copies
        training  rows_per_night, tokens_per_row, epochs, window_h
        machines  gpu (l4, a100, h100), gpus_per_node, node_cores,
                  node_memory_gib, node_price_per_hour,
                  gpu_node_price_per_hour
        utilisation, min_replicas

    What is left out is zero, or as small as the built-in models; cluster/capacity_load.py has every
    default and unit. Speeds are those of docs/serving.md, docs/retrieval.md and docs/training.md: put
    your own in their place with --measured, and a generator's with model.tokens_per_s.

    Example: [bold]python -m cluster capacity chat.requests_per_s=0.5 index.chunks=100000[/]
    """
    given = arguments or []
    path = Path(given[0]) if given and "=" not in given[0] else None
    load = load_yaml_config(Load, path, given[1:] if path else given)
    planned = plan(load, with_measured(MEASURED, measured or []))
    if as_json:
        typer.echo(json.dumps({"load": load.model_dump(mode="json"), **asdict(planned)}, indent=2))
    else:
        _show(planned, Console(soft_wrap=True, highlight=False))


def _show(planned: Plan, console: Console) -> None:
    parts = Table("Part", box=None, pad_edge=False)
    for heading in ("Replicas", "CPUs", "GPUs", "Memory"):
        parts.add_column(heading, justify="right")
    for heading in ("Basis", "From"):
        parts.add_column(heading)
    for part in planned.parts:
        parts.add_row(*_row(part))
    if planned.training is not None:
        parts.add_row(*_row(planned.training))
    console.print(parts)
    console.print("CPUs, GPUs and memory are of one replica.\n")
    figures = Table("Figure", box=None, pad_edge=False)
    figures.add_column("Value", justify="right")
    for heading in ("Basis", "From"):
        figures.add_column(heading)
    for figure in planned.figures:
        figures.add_row(figure.name, _value(figure), figure.basis.value, escape(figure.how))
    console.print(figures)
    nodes = f"{planned.nodes} CPU nodes, {planned.gpu_nodes} GPU nodes"
    nodes += f"; {planned.training_nodes} more at night" if planned.training_nodes else ""
    cost = "give both prices for it" if planned.cost_per_month is None else f"{planned.cost_per_month:,.0f}"
    console.print(f"\nNodes: {nodes}. Cost of a month: {cost}.", markup=False)
    console.print("That N replicas do N times the work of one is a projection on every line.")


def _row(part: Part) -> tuple[str, ...]:
    memory = f"{part.memory_bytes / GIB:.1f} GiB"
    numbers = str(part.replicas), f"{part.num_cpus:g}", str(part.num_gpus), memory
    return part.name, *numbers, part.basis.value, escape(part.how)


def _value(figure: Figure) -> str:
    if figure.unit == "bytes":
        small = figure.value < GIB
        return f"{figure.value / 2**20:.1f} MiB" if small else f"{figure.value / GIB:.1f} GiB"
    return f"{figure.value:,.0f} {figure.unit}".strip()
