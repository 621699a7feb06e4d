"""What a classifier gets right and what it takes for what, class by class. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

# How many rows of a class were predicted as each class: `{"a": {"a": 3, "b": 1}}`, without zeros. Never larger than
# the rows, however many classes there are.
Confusion = Mapping[str, Mapping[str, int]]

# Classes that a text shows; of more, those of the lowest F1.
SHOWN = 20


@dataclass(frozen=True)
class ClassFigures:
    """Of one class. `support`: its rows."""

    name: str
    precision: float
    recall: float
    f1: float
    support: int


def confusion_of(
    predictions: Sequence[int], labels: Sequence[int], names: Sequence[str]
) -> dict[str, dict[str, int]]:
    """Count predictions by class.

    >>> confusion_of([0, 1, 1, 1], [0, 0, 1, 1], ["ham", "spam"])
    {'ham': {'ham': 1, 'spam': 1}, 'spam': {'spam': 2}}
    """
    confusion: dict[str, dict[str, int]] = {}
    for (label, predicted), count in sorted(Counter(zip(labels, predictions, strict=True)).items()):
        confusion.setdefault(names[label], {})[names[predicted]] = count
    return confusion


def figures_by_class(confusion: Confusion, names: Sequence[str]) -> list[ClassFigures]:
    """Precision = TP / (TP + FP), recall = TP / (TP + FN), F1 = 2 TP / (2 TP + FP + FN); 0 where the divisor is 0.

    Source: van Rijsbergen, Information Retrieval (1979), chapter 7.

    >>> figures_by_class({"ham": {"ham": 1, "spam": 1}, "spam": {"spam": 2}}, ["ham", "spam"])[1]
    ClassFigures(name='spam', precision=0.6666666666666666, recall=1.0, f1=0.8, support=2)
    """
    predicted: Counter[str] = Counter()
    for counts in confusion.values():
        predicted.update(counts)
    figures = []
    for name in names:
        counts = confusion.get(name, {})
        right, support = counts.get(name, 0), sum(counts.values())
        precision = right / predicted[name] if predicted[name] else 0.0
        recall = right / support if support else 0.0
        either = predicted[name] + support
        figures.append(ClassFigures(name, precision, recall, 2 * right / either if either else 0.0, support))
    return figures


def report_json(confusion: Confusion, names: Sequence[str]) -> dict[str, Any]:
    """The content of `report.json`."""
    return {
        "classes": [asdict(figures) for figures in figures_by_class(confusion, names)],
        "confusion": confusion,
    }


def report_text(confusion: Confusion, names: Sequence[str]) -> str:
    """Two tables, which are Markdown too: the figures by class and, unless there are many, the confusion matrix."""
    figures = figures_by_class(confusion, names)
    if len(figures) > SHOWN:
        figures = sorted(figures, key=lambda one: one.f1)[:SHOWN]
    cells = [
        [one.name, *(f"{value:.4f}" for value in (one.precision, one.recall, one.f1)), str(one.support)]
        for one in figures
    ]
    text = _table(["class", "precision", "recall", "F1", "rows"], cells)
    if len(names) > SHOWN:
        return f"{text}\n\nThe {SHOWN} of {len(names)} classes with the lowest F1."
    counts = [[name, *(str(confusion.get(name, {}).get(other, 0)) for other in names)] for name in names]
    return f"{text}\n\n{_table(['rows of / predicted as', *names], counts)}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [[" ".join(cell.split()).replace("|", "\\|") for cell in row] for row in (head, *rows)]
    widths = [max(3, *map(len, column)) for column in zip(*lines, strict=True)]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    aligned = [
        [
            line[0].ljust(widths[0]),
            *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)),
        ]
        for line in (lines[0], rule, *lines[1:])
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in aligned)
