"""`python -m training validate`: every fault of a data file, warnings, and statistics, in one pass.

The checks are those of a training run (`training/row_checks.py`, `training/row_files.py`); here they go on
after the first fault. Memory stays flat but for 24 bytes a row, with which duplicates are found.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cluster.errors import DataError
from training.config import DataConfig, TaskName
from training.faults import Fault
from training.identities import Identities, Lines
from training.json_text import column_of
from training.percentiles import summary
from training.row_checks import RowCheck, check_for
from training.row_files import Row, Scanned, data_files, scan
from training.tokenizer import FolderTokenizer

# Fewer examples than this teach a model little but noise.
FEW_EXAMPLES = 10
# Without a tokenizer a token of English text is taken for four characters.
CHARACTERS_PER_TOKEN = 4
JSON_SUFFIXES = (".jsonl", ".ndjson", ".json")


@dataclass(frozen=True, slots=True)
class Finding:
    """A fault or warning with the text it stands in. `file` is named when a folder was checked."""

    fault: Fault
    text: str = ""
    file: str = ""

    def to_json(self) -> dict[str, Any]:
        fault = self.fault
        found: dict[str, Any] = {"line": fault.line, "column": fault.column}
        found |= {"message_index": fault.message_index, "param": fault.param}
        found |= {"reason": fault.reason, "remedy": fault.remedy}
        return found | ({"file": self.file} if self.file else {})


@dataclass
class Report:
    """What was found. `num_errors` counts those beyond the listed ones too."""

    file: str
    task: TaskName | None = None
    rows: int = 0
    errors: list[Finding] = field(default_factory=list)
    num_errors: int = 0
    warnings: list[Finding] = field(default_factory=list)
    statistics: dict[str, Any] = field(default_factory=dict)
    num_bytes: int = 0
    seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        return {
            "file": self.file,
            "task": self.task,
            "rows": self.rows,
            "num_errors": self.num_errors,
            "errors": [finding.to_json() for finding in self.errors],
            "warnings": [finding.to_json() for finding in self.warnings],
            "statistics": self.statistics,
        }


@dataclass(frozen=True)
class Options:
    """How a file is checked: see `python -m training validate --help`."""

    data: DataConfig
    task: TaskName | None = None
    tokenizer: FolderTokenizer | None = None
    max_length_tokens: int | None = None
    max_listed: int = 1000

    @property
    def limit_tokens(self) -> int | None:
        if self.max_length_tokens is None and self.tokenizer is not None:
            return self.tokenizer.max_length_tokens
        return self.max_length_tokens


def validate(path: Path, options: Options, validation_path: Path | None = None) -> Report:
    """Check a file, and the validation file that goes with it.

    Raises DataError only when a file as a whole cannot be read; everything else is in the report.
    """
    inspection = _Inspection(path, options)
    report = inspection.read()
    if validation_path is not None:
        other = _Inspection(validation_path, options, goes_with=inspection.check)
        held_out = other.read()
        report.errors += [replace(finding, file=str(validation_path)) for finding in held_out.errors]
        report.num_errors += held_out.num_errors
        report.warnings += _overlap(inspection.identities, other.identities, validation_path)
        report.statistics["validation_rows"] = held_out.rows
    return report


class _Inspection:
    """One pass over one file, or over the files of a folder."""

    def __init__(self, path: Path, options: Options, goes_with: RowCheck | None = None) -> None:
        self._path = path
        self._options = options
        self._goes_with = goes_with
        self._measures: defaultdict[str, Counter[int]] = defaultdict(Counter)
        self._file = ""
        self._too_long = Lines()
        self._report = Report(str(path), options.task)
        self.check: RowCheck | None = None
        self.identities = Identities()

    def read(self) -> Report:
        started = time.monotonic()
        report = self._report
        for file in data_files(self._path):
            self._file = file.relative_to(self._path).as_posix() if file != self._path else ""
            is_json = file.suffix.lower() in JSON_SUFFIXES
            rows = scan(file)  # refuses a file that is not there
            report.num_bytes += file.stat().st_size
            for scanned in rows:
                report.rows += 1
                if not self._take(scanned, is_json):
                    break
        if not report.rows:
            self._add(Fault("the file holds no rows", "give a file with rows"))
        self._close()
        report.seconds = time.monotonic() - started
        return report

    def _take(self, scanned: Scanned, is_json: bool) -> bool:
        """Check one row; False when no later row could be checked either."""
        row = scanned.found
        if isinstance(row, Fault):
            self._add(row, scanned)
            return True
        check = self.check or self._choose_check(row, scanned)
        if check is None:
            return False
        faults = list(check.faults(row))
        if faults:
            placed = [_placed(fault, row.line, scanned.text if is_json else "") for fault in faults]
            for fault in sorted(placed, key=lambda fault: fault.column or 0):
                self._add(fault, scanned)
        else:
            self._measure(check, row, scanned)
        return True

    def _choose_check(self, first: Row, scanned: Scanned) -> RowCheck | None:
        if self._goes_with is not None:
            self.check = self._goes_with.for_validation()
            return self.check
        try:
            self._report.task, self.check = check_for(first, self._options.task, self._options.data)
        except DataError as exc:  # columns are missing: as true of every row as of this one
            self._add(_fault_of(exc, first.line), scanned)
        return self.check

    def _measure(self, check: RowCheck, row: Row, scanned: Scanned) -> None:
        try:
            counts = check.measures(row, self._options.tokenizer)
        except DataError as exc:  # the chat template refuses the row
            self._add(_fault_of(exc, row.line), scanned)
            return
        for name, value in counts.items():
            self._measures[name][value] += 1
        self.identities.add(row.line, *check.identity(row))
        limit = self._options.limit_tokens
        if limit is not None and counts.get("tokens", counts["characters"] // CHARACTERS_PER_TOKEN) > limit:
            self._too_long.add(row.line)

    def _add(self, fault: Fault, scanned: Scanned | None = None) -> None:
        self._report.num_errors += 1
        if len(self._report.errors) < self._options.max_listed:
            self._report.errors.append(Finding(fault, scanned.text if scanned else "", self._file))

    def _close(self) -> None:
        report, check = self._report, self.check
        if check is None:
            return
        for fault in check.closing_faults():
            self._add(fault)
        warnings = [*check.closing_warnings(), *self.identities.warnings(), *self._length_warnings()]
        if report.rows < FEW_EXAMPLES and self._goes_with is None:
            reason = f"{report.rows} examples are few"
            warnings.append(Fault(reason, f"give at least {FEW_EXAMPLES}, better some hundreds"))
        report.warnings = [Finding(fault) for fault in warnings]
        report.statistics = {name: summary(counts) for name, counts in self._measures.items()}
        report.statistics |= check.statistics()

    def _length_warnings(self) -> Iterator[Fault]:
        if self._too_long.count:
            about = "" if self._options.tokenizer else "about "
            yield self._too_long.warning(
                f"{{}} longer than {about}{self._options.limit_tokens} tokens, and left out or cut",
                "shorten them or raise max_length_tokens",
            )


def _placed(fault: Fault, line: int, json_text: str) -> Fault:
    column = column_of(json_text, fault.at) if json_text and fault.at else None
    return replace(fault, line=line, column=column)


def _fault_of(error: DataError, line: int) -> Fault:
    reason, _, remedy = error.message.partition("; ")
    return Fault(reason, remedy, line=line)


def _overlap(train: Identities, held_out: Identities, validation_path: Path) -> list[Finding]:
    lines = held_out.lines_shared_with(train)
    if not lines.count:
        return []
    fault = lines.warning("{} in the training file too", "remove them: they make the validation loss too low")
    return [Finding(fault, file=str(validation_path))]
