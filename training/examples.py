"""The tokenised row that every task makes and every batch is cut from."""

from __future__ import annotations

from dataclasses import dataclass

# What torch's cross entropy skips. Positions without loss carry it, never a token id.
IGNORE = -100
# Labels and predictions are whole numbers everywhere; scores among them are kept as whole millionths.
MILLIONTHS = 1_000_000


@dataclass(frozen=True, slots=True)
class Example:
    """One row, tokenised.

    input_ids:   [seq_len], token ids without padding
    labels:      [1], the class index (classification); or [seq_len], the token id at each position
                 that carries loss and IGNORE elsewhere (language models)
    segment_ids: [seq_len], 0 and 1 for the two texts of a pair; empty where the model has none
    """

    input_ids: list[int]
    labels: list[int]
    segment_ids: list[int]

    @property
    def num_targets(self) -> int:
        """Terms this row adds to the loss: 1 for a class, its trained tokens for a language model."""
        return self.num_trained_tokens

    @property
    def num_trained_tokens(self) -> int:
        """Tokens that are learned from; 1 for a class."""
        return sum(label != IGNORE for label in self.labels)


@dataclass(frozen=True, slots=True)
class Preference(Example):
    """A prompt with its preferred answer, then the same prompt with the other one: one term of the loss.

    segment_ids: [seq_len], 0 and 1 for the two sequences
    labels:      [seq_len], the token ids of both answers, and IGNORE elsewhere
    """

    @property
    def num_targets(self) -> int:
        return int(self.num_trained_tokens > 0)


@dataclass(frozen=True, slots=True)
class Dataset:
    """What a task made of the rows: examples, class names, and what was left out and why."""

    train: list[Example]
    validation: list[Example]
    labels: tuple[str, ...] = ()
    notices: tuple[str, ...] = ()
