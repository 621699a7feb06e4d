"""The classification task: one or two texts -> a class. Rows to examples, and predictions to metrics.

No torch here: the loss lives in `training/modules.py`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cluster.errors import DataError
from training.config import DataConfig
from training.examples import Dataset, Example
from training.sources import Row, Rows

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


def prepare_classification(rows: Rows, config: DataConfig, tokenizer: Any, max_length_tokens: int) -> Dataset:
    """Tokenise rows; raises DataError naming the line of the first row that cannot be used."""
    columns = find_text_columns(rows.train[0], config)
    labels = find_labels(rows.train, config.label_column, columns)
    train, cut = _tokenize(rows.train, "training", columns, labels, config, tokenizer, max_length_tokens)
    validation, _ = _tokenize(
        rows.validation, "validation", columns, labels, config, tokenizer, max_length_tokens
    )
    notices = [f"{cut} of {len(train)} rows were cut to {max_length_tokens} tokens"] if cut else []
    return Dataset(train, validation, labels.names, tuple(notices))


def find_text_columns(row: Row, config: DataConfig) -> tuple[str, ...]:
    """The text columns: those configured, else the first usual set that the file has."""
    have = set(row.columns)
    if config.text_columns:
        missing = [name for name in config.text_columns if name not in have]
        if missing:
            raise DataError(
                f"data.text_columns names {', '.join(missing)}, but the file has {', '.join(sorted(have))}",
                "data.text_columns",
            )
        return config.text_columns
    for names in TEXT_COLUMNS:
        if have.issuperset(names):
            return names
    raise DataError(
        f"no text columns among {', '.join(sorted(have))}; name them with data.text_columns=[a,b]",
        "data.text_columns",
    )


def find_labels(rows: Sequence[Row], column: str, text_columns: tuple[str, ...]) -> Labels:
    """The classes of the training rows, numbers in numeric order, words in alphabetical order.

    Labels need not start at 0: {1, 2, 3} become classes 0, 1, 2 that keep the names 1, 2, 3. Negative
    labels mark unlabelled test rows in public data sets and are refused.
    """
    if column not in rows[0].columns:
        raise DataError(
            f"no column {column!r} among {', '.join(rows[0].columns)}; name it with data.label_column=",
            "data.label_column",
        )
    counts = Counter(_label_text(row, column) for row in rows)
    negative = {name: count for name, count in counts.items() if _is_integer(name) and int(name) < 0}
    if negative:
        what = ", ".join(f"{count} rows have label {name}" for name, count in sorted(negative.items()))
        first = next(row.line for row in rows if _label_text(row, column) in negative)
        raise DataError(
            f"{what} (unlabelled?), the first at line {first}; remove them or label them", "data.label_column"
        )
    if len(counts) < 2:
        raise DataError(f"all rows have the label {next(iter(counts))!r}; a classifier needs two classes")
    numeric = all(_is_integer(name) for name in counts)
    values = sorted(counts, key=int) if numeric else sorted(counts)
    names = tuple(values)
    if values == ["0", "1"] and text_columns == PARAPHRASE_COLUMNS:
        names = PARAPHRASE_LABELS
    return Labels(names, {value: index for index, value in enumerate(values)})


def classification_metrics(
    predictions: Sequence[int], labels: Sequence[int], num_labels: int
) -> dict[str, float]:
    """Accuracy and F1 of class predictions.

    accuracy = right / all. F1 = 2 TP / (2 TP + FP + FN), of class 1 when there are two classes (as GLUE
    reports MRPC), else the unweighted mean over classes (macro). A class neither predicted nor present
    counts 0. Source: van Rijsbergen, Information Retrieval (1979), chapter 7.

    >>> classification_metrics([1, 1, 0, 1], [1, 0, 0, 1], num_labels=2)
    {'accuracy': 0.75, 'f1': 0.8}
    """
    right = sum(p == t for p, t in zip(predictions, labels, strict=True))
    classes = [1] if num_labels == 2 else list(range(num_labels))
    scores = [_f1(predictions, labels, positive) for positive in classes]
    return {"accuracy": right / len(labels), "f1": sum(scores) / len(scores)}


def _f1(predictions: Sequence[int], labels: Sequence[int], positive: int) -> float:
    true_positive = sum(p == t == positive for p, t in zip(predictions, labels, strict=True))
    predicted = sum(p == positive for p in predictions)
    present = sum(t == positive for t in labels)
    return 2 * true_positive / (predicted + present) if predicted + present else 0.0


def _tokenize(
    rows: Sequence[Row],
    what: str,
    columns: tuple[str, ...],
    labels: Labels,
    config: DataConfig,
    tokenizer: Any,
    max_length_tokens: int,
) -> tuple[list[Example], int]:
    try:
        texts = [[_text(row, column) for row in rows] for column in columns]
        targets = [_class_index(row, config.label_column, labels) for row in rows]
    except DataError as exc:
        raise DataError(f"{what} file, {exc.message}", exc.param) from exc
    encoded = tokenizer(
        *texts, truncation=True, max_length=max_length_tokens, return_token_type_ids=len(columns) == 2
    )
    segments = encoded.get("token_type_ids") or [[]] * len(rows)
    examples = [
        Example(ids, [target], segment)
        for ids, target, segment in zip(encoded["input_ids"], targets, segments, strict=True)
    ]
    return examples, sum(bool(encoding.overflowing) for encoding in encoded.encodings or ())


def _text(row: Row, column: str) -> str:
    value = row.columns.get(column)
    if not isinstance(value, str) or not value.strip():
        raise DataError(
            f"line {row.line}: {column} must be text, found {value!r}; correct or remove the row", column
        )
    return value


def _label_text(row: Row, column: str) -> str:
    value = row.columns.get(column)
    # A column of numbers with gaps comes as floats, and its gaps as nan.
    text = "" if value is None or value != value else WHOLE_FLOAT.sub(r"\1", str(value).strip())
    if not text:
        raise DataError(f"line {row.line}: no label in column {column!r}; label the row or remove it", column)
    return text


def _class_index(row: Row, column: str, labels: Labels) -> int:
    text = _label_text(row, column)
    if text not in labels.index:
        known = ", ".join(labels.index)
        raise DataError(
            f"line {row.line}: label {text!r} does not occur in the training rows (known: {known}); "
            "correct the label or add training rows of that class",
            column,
        )
    return labels.index[text]


def _is_integer(text: str) -> bool:
    return INTEGER.fullmatch(text) is not None
