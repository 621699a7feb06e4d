"""Validation figures, gathered over batches and ranks without counting a row twice."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from training.classification import classification_metrics
from training.config import TaskName
from training.examples import Example
from training.pairs import pair_metrics
from training.preferences import preference_metrics


@dataclass
class Tally:
    """Sums over the rows seen so far. Mergeable, so that ranks add up to one evaluation."""

    loss_sum: float = 0.0
    num_targets: int = 0
    predictions: list[int] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)

    def add(self, loss_sum: float, predictions: Sequence[int], examples: Sequence[Example]) -> None:
        """A batch and what a model made of it: `predictions` one a row, or one a token, which are not kept.

        No figure is made of those, and each rank would be sent those of all others.
        """
        self.loss_sum += loss_sum
        self.num_targets += sum(example.num_targets for example in examples)
        if len(predictions) == len(examples):
            self.predictions += predictions
            self.labels += [example.labels[0] for example in examples]

    @property
    def loss(self) -> float:
        """Mean loss per target, in nats."""
        return self.loss_sum / max(1, self.num_targets)

    @staticmethod
    def merge(parts: Iterable[Tally]) -> Tally:
        whole = Tally()
        for part in parts:
            whole.loss_sum += part.loss_sum
            whole.num_targets += part.num_targets
            whole.predictions += part.predictions
            whole.labels += part.labels
        return whole


def metrics_of(task: TaskName, tally: Tally, num_labels: int) -> dict[str, float]:
    """The columns of the epoch table beside the losses."""
    if task is TaskName.CLASSIFICATION:
        return classification_metrics(tally.predictions, tally.labels, num_labels)
    if task is TaskName.EMBEDDING:
        return pair_metrics(tally.predictions, tally.labels)
    if task is TaskName.DPO:
        return preference_metrics(tally.predictions)
    return {"perplexity": perplexity(tally.loss)}


def perplexity(loss: float) -> float:
    """e^loss, with the loss in nats per token: per trained one (sft) or per guessed one (mlm). Jelinek et al. (1977).

    >>> round(perplexity(0.6931471805599453), 6)
    2.0
    """
    return math.exp(min(loss, 700.0))
