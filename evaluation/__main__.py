"""`python -m evaluation`: compare ways to answer, or guard the quality of one."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from cluster import cli
from evaluation.asking import Answer, AnswerLog, ask_all
from evaluation.compare import compare as run_comparison
from evaluation.compare import prepare
from evaluation.config import CompareConfig, load_config
from evaluation.report import percent
from evaluation.results import collect
from evaluation.summary import show

app = typer.Typer(
    help="Measure which way answers best: `python -m evaluation compare examples/compare-handbook.yaml`.",
    no_args_is_help=True,
)


@app.command()
def compare(
    config: Annotated[Path, typer.Argument(help="YAML file; see examples/compare-handbook.yaml.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Dotted overrides: concurrency=2 weights.inference_time=0.3")
    ] = None,
) -> None:
    """Ask every question of every cell, then write verdict and report.

    Run again after an interruption: what was answered is not asked again.
    """
    loaded = load_config(config, overrides or [])
    questions, requests = prepare(loaded)
    with AnswerLog(loaded.output / "answers.jsonl") as log:
        num_missing = sum(log.find(request) is None for request in requests)
    if num_missing < len(requests):
        typer.echo(f"{len(requests) - num_missing} of {len(requests)} answers are there from an earlier run.")
    with _progress(num_missing) as on_answer:
        results = run_comparison(loaded, questions, requests, on_answer)
    show(results, Console(highlight=False, width=None if sys.stdout.isatty() else 110))


@app.command()
def score(
    model: Annotated[str, typer.Option(help="Model name as asked over HTTP, such as smollm2+rag.")],
    questions: Annotated[Path, typer.Option(help="JSONL of questions; see examples/handbook/README.md.")],
    min_accuracy: Annotated[
        float | None, typer.Option(min=0, max=1, help="Exit with 1 when fewer answers are right.")
    ] = None,
    base_url: Annotated[str, typer.Option(help="OpenAI-compatible endpoint.")] = "http://127.0.0.1:8000/v1",
    concurrency: Annotated[int, typer.Option(min=1, max=256, help="Questions in flight.")] = 4,
    max_tokens: Annotated[int, typer.Option(min=1, help="Answer length in tokens.")] = 48,
) -> None:
    """Score one model or route, for a check in CI: `score --model smollm2+rag --questions test.jsonl`."""
    with tempfile.TemporaryDirectory() as folder:
        config = CompareConfig(
            questions=questions,
            cells={"model": model},
            base_url=base_url,
            concurrency=concurrency,
            max_tokens=max_tokens,
            output=Path(folder),
        )
        asked, requests = prepare(config)
        with _progress(len(requests)) as on_answer, AnswerLog(config.output / "answers.jsonl") as log:
            answers = ask_all(config, requests, log, on_answer)
    results = collect(config, asked, answers, datetime.now(UTC))
    for ruling in results.verdict.kinds:
        typer.echo(f"{ruling.about:14} {percent(ruling.cells['model'])} of {ruling.num_questions}")
    right = results.cells[0].measures["right"]
    assert right is not None  # every question is right or wrong
    typer.echo(f"{'all':14} {percent(right)} of {len(asked)}")
    if min_accuracy is not None and right.mean < min_accuracy:
        typer.echo(
            f"{model} is right on {right.mean:.3f} of the questions, below {min_accuracy:.3f}", err=True
        )
        raise typer.Exit(1)


@contextmanager
def _progress(num_answers: int) -> Iterator[Callable[[Answer], None]]:
    """A live bar on stderr, so that stdout stays the result."""
    columns = (
        TextColumn("asking"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.description}", markup=False),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("", total=num_answers)
        yield lambda answer: progress.update(
            task, advance=1, description=f"{answer.cell}: {answer.question_id}"
        )


if __name__ == "__main__":
    cli.run(app)
