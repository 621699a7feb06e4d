"""A validation report for people: each error beside its line, with a caret under the column."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from training.validation import Finding, Report

# Characters of a line that are shown around its fault.
EXCERPT_CHARACTERS = 76
# Errors that are shown; --json lists all.
SHOWN = 20


def show_report(report: Report, console: Console) -> None:
    for finding in report.errors[:SHOWN]:
        _show_error(finding, report.file, console)
    if report.num_errors > SHOWN:
        console.print(f"… and {_number(report.num_errors - SHOWN, 'more error')} (--json lists them)\n")
    for finding in report.warnings:
        text = Text("warning ", style="yellow").append(finding.fault.reason, style="not yellow default")
        console.print(text.append(f"; {finding.fault.remedy}", style="dim"), soft_wrap=True)
    _show_statistics(report, console)
    console.print(_verdict(report), soft_wrap=True)


def excerpt(text: str, column: int | None) -> tuple[str, int | None]:
    """The part of a line around a column (from 1), and how far from its left end the column stands.

    >>> text, caret = excerpt("a" * 99 + "!" + "a" * 99, 100)
    >>> text[:4], text[caret], text[-4:]
    ('… aa', '!', 'aa …')
    """
    line = "".join(" " if character < " " else character for character in text)
    if column is None:
        return (line if len(line) <= EXCERPT_CHARACTERS else line[:EXCERPT_CHARACTERS] + " …"), None
    start = max(0, min(column - 1 - EXCERPT_CHARACTERS // 2, len(line) - EXCERPT_CHARACTERS))
    end = start + EXCERPT_CHARACTERS
    before, after = ("… " if start else ""), (" …" if end < len(line) else "")
    return before + line[start:end] + after, len(before) + column - 1 - start


def _show_error(finding: Finding, file: str, console: Console) -> None:
    fault = finding.fault
    place = ":".join(str(part) for part in (finding.file or file, fault.line, fault.column) if part)
    message = f"message {fault.message_index}: " if fault.message_index is not None else ""
    heading = (
        Text(place, style="bold").append(" error ", style="red").append(message + fault.reason, "not bold")
    )
    console.print(heading, soft_wrap=True)
    if finding.text:
        line, caret = excerpt(finding.text, fault.column)
        console.print(Text("  " + line), soft_wrap=True)
        if caret is not None:
            console.print(Text("  " + " " * caret + "^", style="red"), soft_wrap=True)
    console.print(Text(f"  {fault.remedy}\n", style="dim"), soft_wrap=True)


def _show_statistics(report: Report, console: Console) -> None:
    measures = {
        name: values
        for name, values in report.statistics.items()
        if isinstance(values, dict) and "p50" in values
    }
    if not measures:
        return
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("")
    for title in next(iter(measures.values())):
        table.add_column(title, justify="right")
    for name, values in measures.items():
        table.add_row(name.replace("_", " "), *(f"{value:,}" for value in values.values()))
    console.print(table)
    classes = report.statistics.get("classes")
    if classes:
        console.print("classes  " + ", ".join(f"{name} {count:,}" for name, count in classes.items()))


def _verdict(report: Report) -> Text:
    counts = f"{_number(report.num_errors, 'error')}, {_number(len(report.warnings), 'warning')}"
    task = f" for {report.task}" if report.task else ""
    speed = f"{report.num_bytes / 1e6:.1f} MB in {report.seconds:.1f} s"
    text = f"{report.file}: {_number(report.rows, 'row')}{task}, {counts} ({speed})"
    return Text(text, style="red" if report.num_errors else "green")


def _number(count: int, noun: str) -> str:
    return f"{count:,} {noun}" + ("" if count == 1 else "s")
