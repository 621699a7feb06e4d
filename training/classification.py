"""The classification task: one or two texts -> a class. Rows to examples, and predictions to metrics.

No torch here: the loss lives in `training/modules.py`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from cluster.errors import DataError
from training.classification_rows import LabelledRows, Labels, label_text
from training.config import DataConfig
from training.examples import Dataset, Example, Examples, blocks
from training.faults import raise_first
from training.row_files import Row
from training.sources import Rows


def prepare_classification(rows: Rows, config: DataConfig, tokenizer: Any, max_length_tokens: int) -> Dataset:
    """Tokenise rows; raises DataError naming the line of the first row that cannot be used."""
    check = LabelledRows.of(next(iter(rows.train)), config)
    _check(rows.train, check, "training file")
    labels = check.labels()
    _check(rows.validation, check.for_validation(), rows.validation_file)
    train, cut = _tokenize(rows.train, check, labels, tokenizer, max_length_tokens)
    validation, _ = _tokenize(rows.validation, check, labels, tokenizer, max_length_tokens)
    notices = [f"{cut} of {len(train)} rows were cut to {max_length_tokens} tokens"] if cut else []
    return Dataset(train, validation, labels.names, tuple(notices))


def balanced_weights(num_rows: Mapping[str, int]) -> tuple[float, ...]:
    """What a row of each class counts in the loss, from the training rows by class: N / (K n_k).

    Each class then weighs as much as another, and a row 1 on average. Source: King and Zeng, Logistic Regression
    in Rare Events Data (2001), as scikit-learn's `class_weight="balanced"`. Raises DataError for a class without rows.

    >>> [round(weight, 3) for weight in balanced_weights({"a": 95, "b": 5})]
    [0.526, 10.0]
    """
    missing = [name for name, count in num_rows.items() if count == 0]
    if missing:
        raise DataError(
            f"class_weight=balanced: no training row has the label {missing[0]}; add rows of it or leave "
            "class_weight out",
            "class_weight",
        )
    return tuple(sum(num_rows.values()) / (len(num_rows) * count) for count in num_rows.values())


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
    right = Counter(label for predicted, label in zip(predictions, labels, strict=True) if predicted == label)
    either = Counter(predictions) + Counter(labels)  # 2 TP + FP + FN
    classes = [1] if num_labels == 2 else range(num_labels)
    scores = [2 * right[name] / either[name] if either[name] else 0.0 for name in classes]
    return {"accuracy": right.total() / len(labels), "f1": sum(scores) / len(scores)}


def _check(rows: Iterable[Row], check: LabelledRows, what: str) -> None:
    for row in rows:
        raise_first(check.faults(row), f"{what}, {row.where}")
    raise_first(check.closing_faults(), what)


def _tokenize(
    rows: Iterable[Row], check: LabelledRows, labels: Labels, tokenizer: Any, max_length_tokens: int
) -> tuple[Examples, int]:
    """The examples of all rows, and how many rows were cut."""
    is_pair = len(check.text_columns) == 2
    num_cut = 0

    def encoded() -> Iterator[Example]:
        nonlocal num_cut
        for block in blocks(rows):
            texts = [[row.columns[column] for row in block] for column in check.text_columns]
            found = tokenizer(
                *texts, truncation=True, max_length=max_length_tokens, return_token_type_ids=is_pair
            )
            num_cut += sum(bool(encoding.overflowing) for encoding in found.encodings or ())
            segments = found.get("token_type_ids") or [[]] * len(block)
            for row, ids, segment in zip(block, found["input_ids"], segments, strict=True):
                target = labels.index[label_text(row.columns, check.label_column)]
                yield Example(ids, [target], segment)

    return Examples.of(encoded()), num_cut
