"""What the command line shows: progress, reports, hits and tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from retrieval.points import DocumentRecord, Hit
from retrieval.search import SearchResult
from retrieval.store import CollectionInfo

if TYPE_CHECKING:
    from retrieval.evaluate import Estimate
    from retrieval.ingest import IngestReport

console = Console(soft_wrap=True, highlight=False)


def print_report(collection: str, report: IngestReport) -> None:
    console.print(
        f"{collection}: {report.num_added} documents added, {report.num_updated} updated, "
        f"{report.num_unchanged} unchanged, {report.num_removed} removed, {len(report.skipped)} skipped"
    )
    console.print(
        f"{report.num_chunks} chunks in {report.seconds:.1f} s ({report.chunks_per_s:.0f} chunks/s)"
    )
    uris: dict[str, list[str]] = {}
    for skipped in report.skipped:
        uris.setdefault(skipped.reason, []).append(skipped.uri)
    for reason, those in uris.items():
        # A reason that thousands of images share is read once.
        console.print(f"  skipped, {reason}:", markup=False)
        for uri in those:
            console.print(f"    {uri}", markup=False)
    for warning in report.warnings:
        console.print(f"  warning {warning}", markup=False)


def print_evaluation(
    results: Mapping[str, Mapping[str, Estimate]], num_questions: int, num_documents: int
) -> None:
    title = f"{num_questions} questions, {num_documents} documents; mean and 95 % interval"
    # There are more metrics than stages: as rows they fit a terminal of 80 columns, names and all.
    table = Table("metric", *results, title=title, box=box.SIMPLE_HEAD, pad_edge=False)
    for name in next(iter(results.values())):
        found = [estimates[name] for estimates in results.values()]
        table.add_row(name, *(escape(f"{one.mean:.3f} [{one.low:.2f}, {one.high:.2f}]") for one in found))
    console.print(table)


def print_collections(infos: list[CollectionInfo]) -> None:
    if not infos:
        console.print("no collection yet; fill one: python -m retrieval ingest PATH --collection NAME")
    for info in infos:
        spec = info.spec
        console.print(
            f"{spec.name}  {info.num_points} chunks, {spec.dimension} dimensions, {spec.embedder}",
            markup=False,
        )
        if info.fields:
            fields = ", ".join(f"{key} ({kind})" for key, kind in sorted(info.fields.items()))
            console.print(f"    filters: {fields}", markup=False, style="dim")


def print_documents(records: list[DocumentRecord]) -> None:
    # No table: ids are there to be copied, and a terminal's width would cut them.
    for record in records:
        console.print(
            f"{record.num_chunks:>6} chunks  {escape(record.document_id)}  [dim]{escape(record.title)}[/]"
        )


def print_result(result: SearchResult) -> None:
    for rank, hit in enumerate(result.hits, start=1):
        scores = "  ".join(f"{name} {score:.3f}" for name, score in hit.scores.items())
        console.print(f"[bold]{rank}. {escape(hit.title)}[/]  {escape(place(hit))}  [dim]{scores}[/]")
        console.print(f"   {escape(' '.join(hit.text.split())[:300])}")
    if not result.hits:
        console.print("no hits")
    stages = ", ".join(f"{name} {ms:.1f} ms" for name, ms in result.stages_ms.items())
    console.print(f"[dim]{stages}[/]")


def place(hit: Hit) -> str:
    page = f" page {hit.page}" if hit.page else ""
    return f"{hit.uri}{page} [{hit.start}:{hit.end}]"


def progress_bar() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
