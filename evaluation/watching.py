"""Who is told how far a comparison is: the terminal, and the state of its report."""

from __future__ import annotations

from datetime import datetime
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from cluster.reports import Report, Reports, ReportStatus
from evaluation.answers import Answer


class Watcher(Protocol):
    """Is told how far a comparison is."""

    def stage(self, name: str, num_answers: int = 0) -> None:
        """A stage begins, in which so many answers are asked for."""

    def answered(self, answer: Answer) -> None:
        """One of them is there."""


class TerminalWatcher:
    """A live line for each stage on stderr, so that stdout stays the result; in a log, a line when it begins."""

    def __init__(self) -> None:
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        self._console = Console(stderr=True)
        self._progress = Progress(*columns, console=self._console, disable=not self._console.is_terminal)
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self._end_stage()
        self._progress.stop()

    def stage(self, name: str, num_answers: int = 0) -> None:
        self._end_stage()
        self._task = self._progress.add_task(name, total=num_answers or None)
        if not self._console.is_terminal:
            answers = f": {num_answers} answers" if num_answers else ""
            self._console.print(f"{datetime.now():%H:%M:%S}  {name}{answers}", markup=False, highlight=False)

    def answered(self, _answer: Answer) -> None:
        if self._task is not None:
            self._progress.advance(self._task)

    def _end_stage(self) -> None:
        if self._task is not None:
            done = max(self._progress.tasks[self._task].completed, 1)
            self._progress.update(self._task, total=done, completed=done)
            self._progress.stop_task(self._task)


class ReportWatcher:
    """Writes each stage into the report's state, and passes everything on."""

    def __init__(self, report: Report, then: Watcher) -> None:
        self.report = report
        self._then = then

    def stage(self, name: str, num_answers: int = 0) -> None:
        running = {"stage": name, "status": ReportStatus.RUNNING}
        self.report = Reports().save(self.report.model_copy(update=running))
        self._then.stage(name, num_answers)

    def answered(self, answer: Answer) -> None:
        self._then.answered(answer)
