"""What `auto` means: hyperparameters from the number of training rows, by one documented rule.

n_epochs     3, more for few rows and fewer for many: 100 to 25,000 rows are shown in all, at most 25 times each
batch_size   the power of two at or below a thirtieth of the rows, 1 to 32
beta         0.1 (of preferences alone)
learning_rate_multiplier   sqrt(batch_size / 16), 0.25 to 2: a larger batch is less noisy and takes a larger step
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

AUTO_EPOCHS = 3
MOST_AUTO_EPOCHS = 25
LEAST_ROWS_SHOWN = 100
MOST_ROWS_SHOWN = 25_000
ROWS_PER_BATCH_ROW = 30
MOST_AUTO_BATCH = 32
REFERENCE_BATCH = 16
AUTO_BETA = 0.1

Auto = Literal["auto"]


@dataclass(frozen=True)
class Hyperparameters:
    """Decided values. `batch_size` counts rows per optimizer step over all workers; `beta` is of method dpo alone."""

    n_epochs: int
    batch_size: int
    learning_rate_multiplier: float
    beta: float | None = None

    def to_json(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if value is not None}


def decide(
    num_rows: int,
    n_epochs: int | Auto = "auto",
    batch_size: int | Auto = "auto",
    learning_rate_multiplier: float | Auto = "auto",
    beta: float | Auto | None = None,
) -> Hyperparameters:
    """The values asked for, and for each `auto` the rule's.

    >>> decide(240).to_json()
    {'n_epochs': 3, 'batch_size': 8, 'learning_rate_multiplier': 0.71}
    >>> decide(10, batch_size=4, beta="auto").to_json()
    {'n_epochs': 10, 'batch_size': 4, 'learning_rate_multiplier': 0.5, 'beta': 0.1}
    """
    batch = auto_batch_size(num_rows) if batch_size == "auto" else batch_size
    epochs = auto_epochs(num_rows) if n_epochs == "auto" else n_epochs
    multiplier = auto_multiplier(batch) if learning_rate_multiplier == "auto" else learning_rate_multiplier
    return Hyperparameters(epochs, batch, multiplier, AUTO_BETA if beta == "auto" else beta)


def auto_epochs(num_rows: int) -> int:
    rows = max(num_rows, 1)
    if rows * AUTO_EPOCHS < LEAST_ROWS_SHOWN:
        return min(MOST_AUTO_EPOCHS, LEAST_ROWS_SHOWN // rows)
    if rows * AUTO_EPOCHS > MOST_ROWS_SHOWN:
        return max(1, MOST_ROWS_SHOWN // rows)
    return AUTO_EPOCHS


def auto_batch_size(num_rows: int) -> int:
    share = max(num_rows // ROWS_PER_BATCH_ROW, 1)
    return int(min(2 ** (share.bit_length() - 1), MOST_AUTO_BATCH))


def auto_multiplier(batch_size: int) -> float:
    return round(min(max(math.sqrt(batch_size / REFERENCE_BATCH), 0.25), 2.0), 2)
