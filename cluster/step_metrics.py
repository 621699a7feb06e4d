"""A job's result file: its metrics by step, as the CSV that OpenAI's clients expect."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from typing import Any

RESULTS_PURPOSE = "fine-tune-results"


def step_metrics_csv(metrics: Iterable[Mapping[str, Any]]) -> bytes:
    """One line per step, columns in the order in which they first appear. Of a step told twice, the later counts:
    an attempt that goes on from a checkpoint repeats the steps after it.

    >>> step_metrics_csv([{"step": 1, "train_loss": 0.7}, {"step": 1, "valid_loss": 0.6}]).decode().splitlines()
    ['step,train_loss,valid_loss', '1,0.7,0.6']
    """
    lines: dict[int, dict[str, Any]] = {}
    columns = {"step": None}
    for entry in metrics:
        if "step" in entry:
            numbers = {name: value for name, value in entry.items() if isinstance(value, int | float)}
            lines.setdefault(entry["step"], {}).update(numbers)
            columns |= dict.fromkeys(numbers)
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(columns), restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines[step] for step in sorted(lines))
    return text.getvalue().encode()
