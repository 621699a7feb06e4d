"""The tokenised row that every task makes and every batch is cut from."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar, overload

import numpy as np

from training.ragged import Ragged, RaggedFile

# What torch's cross entropy skips. Positions without loss carry it, never a token id.
IGNORE = -100
# Labels and predictions are whole numbers everywhere; scores among them are kept as whole millionths.
MILLIONTHS = 1_000_000
# Rows given to a tokenizer at once: work for all its threads, while what it returns beside the ids, many
# times their size, is let go block by block.
BLOCK_ROWS = 1000
ABOUT_FILE = "dataset.json"
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Example:
    """One row, tokenised.

    input_ids:   [seq_len], token ids without padding
    labels:      [1], the class index (classification), or RIGHT or a score in millionths (embedding); or
                 [seq_len], the token id at each position that carries loss and IGNORE elsewhere (the others)
    segment_ids: [seq_len], from 0, the text or the packed row that each token is of; empty where there is one
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


# The fields of a row, in their order.
COLUMNS = ("input_ids", "labels", "segment_ids")
KINDS = {kind.__name__: kind for kind in (Example, Preference)}


class Examples(Sequence[Example]):
    """Rows that were tokenised, in flat arrays; reading one makes an Example.

    Four bytes a number, where Python's lists take ten times as many: on disk where they are made, and in Ray's
    object store one copy for all workers of a host.
    """

    def __init__(self, kind: type[Example], columns: Mapping[str, Ragged]) -> None:
        self._kind, self._columns = kind, columns

    @classmethod
    def of(cls, rows: Iterable[Example]) -> Examples:
        """The rows, which are all of one class and read once, one by one; what is made of them lies on disk."""
        kind = Example
        files = {name: RaggedFile() for name in COLUMNS}
        for row in rows:
            kind = type(row)
            for name, file in files.items():
                file.add(getattr(row, name))
        return cls(kind, {name: file.mapped() for name, file in files.items()})

    @property
    def kind(self) -> type[Example]:
        """What the rows are."""
        return self._kind

    def save(self, folder: Path) -> None:
        """Write the arrays into a new folder."""
        folder.mkdir(parents=True)
        for name, column in self._columns.items():
            column.save(folder, name)

    @classmethod
    def load(cls, kind: type[Example], folder: Path) -> Examples:
        """What was saved in a folder, in memory only as far as it is being read."""
        return cls(kind, {name: Ragged.load(folder, name) for name in COLUMNS})

    @property
    def lengths(self) -> list[int]:
        """Tokens of each row."""
        lengths: list[int] = np.diff(self._columns["input_ids"].offsets).tolist()
        return lengths

    @cached_property
    def num_trained_tokens(self) -> np.ndarray:
        """Those of each row: [rows], int64."""
        return self._columns["labels"].num_other_than(IGNORE)

    @property
    def num_targets(self) -> np.ndarray:
        """Those of each row: [rows], int64."""
        return np.minimum(self.num_trained_tokens, 1) if self._kind is Preference else self.num_trained_tokens

    @cached_property
    def num_segments(self) -> np.ndarray:
        """Of rows that have any: [rows], int64."""
        column = self._columns["segment_ids"]
        last: np.ndarray = column.values[column.offsets[1:] - 1]
        return last.astype(np.int64) + 1

    def __len__(self) -> int:
        return len(self._columns["input_ids"])

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> list[Example]: ...
    def __getitem__(self, index: int | slice) -> Example | list[Example]:
        places = range(len(self))[index]
        if isinstance(places, range):
            return [self[place] for place in places]
        return self._kind(*(column.row(places) for column in self._columns.values()))


@dataclass(frozen=True, slots=True)
class Dataset:
    """What a task made of the rows: examples, class names, and what was left out and why.

    `class_weights`: what a row of each class counts in the loss; empty where all count 1.
    """

    train: Examples
    validation: Examples
    labels: tuple[str, ...] = ()
    notices: tuple[str, ...] = ()
    class_weights: tuple[float, ...] = ()

    def save(self, folder: Path) -> None:
        """Write everything into a new folder."""
        self.train.save(folder / "train")
        self.validation.save(folder / "validation")
        about = {name: getattr(self, name) for name in ("labels", "notices", "class_weights")}
        about["kind"] = self.train.kind.__name__
        (folder / ABOUT_FILE).write_text(json.dumps(about), encoding="utf-8")

    @staticmethod
    def load(folder: Path) -> Dataset:
        """What was saved in a folder."""
        about = json.loads((folder / ABOUT_FILE).read_text(encoding="utf-8"))
        kind = KINDS[about.pop("kind")]
        train, validation = (Examples.load(kind, folder / side) for side in ("train", "validation"))
        return Dataset(train, validation, **{name: tuple(value) for name, value in about.items()})


def blocks(rows: Iterable[T]) -> Iterator[list[T]]:
    """Some rows at a time, as many as a tokenizer is given at once; the last block holds what is left."""
    left = iter(rows)
    while block := list(islice(left, BLOCK_ROWS)):
        yield block


def pad_token_id(tokenizer: Any) -> int:
    """The id to pad with; models without one are padded with their end token, masked by position."""
    return int(tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id)
