"""The form of labelled rows: which columns hold texts and label, which classes there are, what is refused."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from cluster.errors import DataError, some_of
from training.config import DataConfig
from training.faults import Fault, show, text_fault
from training.row_files import Row

# Column names people use, by what they mean; the first set found in a file is taken.
TEXT_COLUMNS = (
    ("sentence1", "sentence2"),
    ("text_a", "text_b"),
    ("question1", "question2"),
    ("premise", "hypothesis"),
    ("text", "text_pair"),
    ("text",),
    ("sentence",),
)
# A pair labelled 0 and 1 under one of MRPC's column sets gets MRPC's class names.
PARAPHRASE_COLUMNS = ("sentence1", "sentence2")
PARAPHRASE_LABELS = ("not_equivalent", "equivalent")

INTEGER = re.compile(r"-?[0-9]+")
WHOLE_FLOAT = re.compile(r"^(-?[0-9]+)\.0+$")


@dataclass(frozen=True, slots=True)
class Labels:
    """Class names by class index, and the index of each value found in the data."""

    names: tuple[str, ...]
    index: dict[str, int]


def find_text_columns(have: Iterable[str], configured: tuple[str, ...] = ()) -> tuple[str, ...]:
    """The text columns: those configured, else the first usual set that the file has."""
    names = set(have)
    if configured:
        missing = [name for name in configured if name not in names]
        if missing:
            raise DataError(
                f"data.text_columns names {', '.join(missing)}, but the file has {', '.join(sorted(names))}",
                "data.text_columns",
            )
        return configured
    for usual in TEXT_COLUMNS:
        if names.issuperset(usual):
            return usual
    raise DataError(
        f"no text columns among {', '.join(sorted(names))}; name them with data.text_columns=[a,b]",
        "data.text_columns",
    )


@dataclass
class LabelledRows:
    """The check of labelled rows, one after the other: `faults` of each, `closing_faults` of all together.

    `known` are the classes of the training rows when validation rows are checked.
    """

    text_columns: tuple[str, ...]
    label_column: str
    known: Labels | None = None
    counts: Counter[str] = field(default_factory=Counter)
    first_lines: dict[str, int] = field(default_factory=dict)

    @staticmethod
    def of(first: Row, config: DataConfig) -> LabelledRows:
        """For rows like `first`. Raises DataError when it lacks the columns."""
        columns = find_text_columns(first.columns, config.text_columns)
        if config.label_column not in first.columns:
            raise DataError(
                f"no column {config.label_column!r} among {', '.join(first.columns)}; "
                "name it with data.label_column=",
                "data.label_column",
            )
        return LabelledRows(columns, config.label_column)

    def for_validation(self) -> LabelledRows:
        """The check of the validation rows that go with these, which bring no class of their own."""
        return LabelledRows(self.text_columns, self.label_column, self.labels())

    def faults(self, row: Row) -> Iterator[Fault]:
        """What is wrong with a row; its label is counted."""
        for column in self.text_columns:
            yield from text_fault(row.columns, column)
        label = label_text(row.columns, self.label_column)
        value = row.columns.get(self.label_column)
        if isinstance(value, list | dict | bytes):
            yield Fault(
                f"the label must be a text or a number, found {show(value)}",
                "write one class for each row",
                (self.label_column,),
            )
        elif not label:
            yield Fault("no label", "label the row or remove it", (self.label_column,))
        elif self.known is not None and label not in self.known.index:
            yield Fault(
                f"label {label!r} does not occur in the training rows (known: {some_of(list(self.known.index))})",
                "correct the label or add training rows of that class",
                (self.label_column,),
            )
        else:
            self.counts[label] += 1
            self.first_lines.setdefault(label, row.line)

    def closing_faults(self) -> Iterator[Fault]:
        """What is wrong with all rows together. Call it after the last row."""
        negative = sorted(name for name in self.counts if _is_integer(name) and int(name) < 0)
        for name in negative:
            yield Fault(
                f"{self.counts[name]} rows have label {name} (unlabelled?), the first at line {self.first_lines[name]}",
                "remove them or label them",
                (self.label_column,),
                self.first_lines[name],
            )
        if len(self.counts) == 1 and self.known is None:
            yield Fault(
                f"all rows have the label {next(iter(self.counts))!r}",
                "a classifier needs two classes",
                (self.label_column,),
            )

    def labels(self) -> Labels:
        """The classes, numbers in numeric order, words in alphabetical order.

        Labels need not start at 0: {1, 2, 3} become classes 0, 1, 2 that keep the names 1, 2, 3.
        """
        numeric = all(_is_integer(name) for name in self.counts)
        values = sorted(self.counts, key=int) if numeric else sorted(self.counts)
        names = tuple(values)
        if values == ["0", "1"] and self.text_columns == PARAPHRASE_COLUMNS:
            names = PARAPHRASE_LABELS
        return Labels(names, {value: index for index, value in enumerate(values)})


def label_text(columns: Mapping[str, Any], column: str) -> str:
    """A label as text; empty when there is none."""
    value = columns.get(column)
    # A column of numbers with gaps comes as floats, and its gaps as nan.
    return "" if value is None or value != value else WHOLE_FLOAT.sub(r"\1", str(value).strip())


def _is_integer(text: str) -> bool:
    return INTEGER.fullmatch(text) is not None
