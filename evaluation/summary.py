"""The verdict on one screen of the terminal."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from evaluation.report import percent
from evaluation.results import Results


def show(results: Results, console: Console) -> None:
    verdict = results.verdict
    table = Table(title="Right answers", title_justify="left")
    for title in ("questions", *results.config.cells):
        table.add_column(escape(title), justify="left" if title == "questions" else "right")
    table.add_column("best", overflow="fold")
    for ruling in verdict.kinds:
        shares = [percent(ruling.cells[cell]) for cell in results.config.cells]
        table.add_row(f"{ruling.num_questions} {ruling.about}", *shares, escape(ruling.text))
    times = [f"{figures.total.p50_ms:.0f} ms" for figures in results.cells]
    tokens = [f"{f.mean_prompt_tokens + f.mean_completion_tokens:.0f}" for f in results.cells]
    table.add_section()
    table.add_row("time, median", *times, "")
    table.add_row("tokens, mean", *tokens, "")
    console.print(table)
    console.print(f"[bold]Verdict: {escape(verdict.overall.text)}[/bold]")
    for reason in verdict.overall.reasons:
        console.print(f"  {escape(reason)}")
    for flip in verdict.flips:
        console.print(
            f"  With a weight of {flip.at:.2f} instead of {flip.weight:.2f} on {flip.row}, "
            f"{escape(flip.to)} would draw level."
        )
    console.print(f"Report: {escape(str(results.config.output / 'report.html'))}")
