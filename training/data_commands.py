"""The commands that look before a run: `validate` a data file, `plan` a run. Neither needs the cluster."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer
from rich.console import Console

from cluster.errors import HamletError
from cluster.storage import local_copy
from cluster.yaml_config import validated
from training.config import DataConfig, TaskName, load_config

ConfigFile = Annotated[str, typer.Argument(help="YAML file, or its fsspec URI; see examples/*.yaml.")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(help="Dotted overrides: epochs=1 data.path=rows.tsv scaling.num_workers=2"),
]
MAX_PRICE = 1e6  # finite, as JSON has no infinity
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]


def validate(
    file: Annotated[
        str, typer.Argument(help="Data file, folder or fsspec URI: JSONL, JSON, CSV, TSV, Parquet.")
    ],
    task: Annotated[TaskName | None, typer.Option(help="Detected from the columns by default.")] = None,
    validation: Annotated[
        str | None, typer.Option(help="Validation file, checked too, and for rows in both.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Count tokens with this model's tokenizer and chat template.")
    ] = None,
    max_length_tokens: Annotated[
        int | None, typer.Option(min=1, help="Warn of longer rows; the model's own limit by default.")
    ] = None,
    label_column: Annotated[str, typer.Option(help="Column of the class.")] = "label",
    text_columns: Annotated[
        str, typer.Option(help="One or two text columns, joined by a comma; known names by default.")
    ] = "",
    max_errors: Annotated[int, typer.Option(min=1, help="Errors that are listed; all are counted.")] = 1000,
    as_json: AsJson = False,
) -> None:
    """Find every fault of a data file, with line, column and remedy, before a run would.

    Exits with 1 when there are errors; warnings alone exit with 0.

    Example: [bold]python -m training validate rows.jsonl --model builtin:smollm2 --validation held-out.jsonl[/]
    """
    from cluster.references import resolve_model
    from training.tokenizer import FolderTokenizer
    from training.validation import Options, validate
    from training.validation_view import show_report

    columns = tuple(name.strip() for name in text_columns.split(",") if name.strip())
    with _error_told(as_json):
        options = Options(
            validated(DataConfig, {"path": file, "label_column": label_column, "text_columns": columns}),
            task,
            FolderTokenizer(resolve_model(model)) if model else None,
            max_length_tokens,
            max_errors,
        )
        report = validate(local_copy(file), options, local_copy(validation) if validation else None)
    if as_json:
        typer.echo(json.dumps(report.to_json(), ensure_ascii=False))
    else:
        show_report(report, _console())
    if report.num_errors:
        raise typer.Exit(1)


def plan(
    config: ConfigFile,
    overrides: Overrides = None,
    probe: Annotated[
        bool, typer.Option(help="Run a few steps of the model here, to estimate the time.")
    ] = True,
    price_per_hour: Annotated[
        float | None,
        typer.Option(min=0, max=MAX_PRICE, help="Price of one hour of a GPU, or of a worker without one."),
    ] = None,
    input_price_per_1k: Annotated[
        float | None,
        typer.Option(min=0, max=MAX_PRICE, help="A hosted service's price of 1,000 input tokens."),
    ] = None,
    training_price_per_1k: Annotated[
        float | None, typer.Option(min=0, max=MAX_PRICE, help="Its price of training on 1,000 tokens.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Estimate tokens, steps, memory, time and cost of a run, beside what it measured once it has ended.

    Example: [bold]python -m training plan examples/smollm2-handbook.yaml epochs=3 --price-per-hour 2.5[/]
    """
    from training.plan import Prices, make_plan
    from training.plan_view import show_plan

    prices = Prices(price_per_hour, input_price_per_1k, training_price_per_1k)
    with _error_told(as_json):
        made = make_plan(load_config(local_copy(config), overrides or []), prices, with_probe=probe)
    if as_json:
        typer.echo(json.dumps(made, ensure_ascii=False))
    else:
        show_plan(made, _console())


def _console() -> Console:
    # What is shown is the user's: a class called [/b] or :smile: stays as it is.
    return Console(file=sys.stdout, highlight=False, markup=False, emoji=False)


@contextmanager
def _error_told(as_json: bool) -> Iterator[None]:
    """With --json an error is one object too, which tells bad input from a part that is down; both end with 2."""
    try:
        yield
    except HamletError as exc:
        if as_json:
            error = {"message": exc.message, "type": exc.type, "param": exc.param, "code": exc.code}
            typer.echo(json.dumps({"error": error}, ensure_ascii=False))
        raise
