"""The verdict on one screen of the terminal."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from evaluation.results import Results
from evaluation.rows import ROW_NAMES
from evaluation.table import six_rows


def show(results: Results, console: Console) -> None:
    verdict = results.verdict
    table = Table(title=escape(results.config.name), title_justify="left")
    for title in ("", *results.config.cells):
        table.add_column(escape(title), justify="left" if not title else "right")
    for row in six_rows(results):
        figures = [_bold(entry.figure, entry.is_best) for entry in row.entries.values()]
        table.add_row(escape(row.name), *figures)
    table.add_section()
    for ruling in verdict.kinds:
        shares = [
            _bold(f"{ruling.cells[cell].mean:.0%}", cell in ruling.leaders) for cell in results.config.cells
        ]
        table.add_row(escape(f"{ruling.num_questions} {ruling.about}"), *shares)
    console.print(table)
    console.print(
        f"[bold]Verdict: {escape(verdict.overall.text)}[/bold]  {escape(verdict.overall.reasons[0])}"
    )
    for flip in verdict.flips:
        console.print(
            f"  With a weight of {flip.at:.2f} instead of {flip.weight:.2f} on "
            f"{ROW_NAMES[flip.row]}, {escape(flip.to)} would draw level with "
            f"{escape(verdict.overall.leaders[0])}."
        )
    console.print(f"Report: {escape(str(results.config.output / 'report.html'))}", soft_wrap=True)
    if verdict.overall.winner in results.policies:
        console.print(
            f"Behind auto: python -m evaluation promote {escape(str(results.config.output))}", soft_wrap=True
        )


def _bold(text: str, is_best: bool) -> str:
    return f"[bold]{escape(text)}[/bold]" if is_best else escape(text)
