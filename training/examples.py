"""The tokenised row that every task makes and every batch is cut from."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from tempfile import TemporaryFile
from typing import IO, Any, TypeVar, overload

import numpy as np

from cluster.settings import settings

# What torch's cross entropy skips. Positions without loss carry it, never a token id.
IGNORE = -100
# Labels and predictions are whole numbers everywhere; scores among them are kept as whole millionths.
MILLIONTHS = 1_000_000
# Rows given to a tokenizer at once: work for all its threads, while what it returns beside the ids, many
# times their size, is let go block by block.
BLOCK_ROWS = 1000
T = TypeVar("T")


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
class _Ragged:
    """Rows of whole numbers one after the other: row i is `values[offsets[i]:offsets[i + 1]]`.

    values: [total], int32
    offsets: [rows + 1], int64
    """

    values: np.ndarray
    offsets: np.ndarray

    def row(self, index: int) -> list[int]:
        numbers: list[int] = self.values[self.offsets[index] : self.offsets[index + 1]].tolist()
        return numbers


class _RaggedFile:
    """Rows of whole numbers on their way to disk. The files have no name: they go with the process that made them."""

    def __init__(self) -> None:
        folder = settings().cache_dir / "tokens"  # not the folder of temporary files, which may lie in memory
        folder.mkdir(parents=True, exist_ok=True)
        self._values = TemporaryFile(dir=folder)  # noqa: SIM115 - closed once it is mapped
        self._offsets = TemporaryFile(dir=folder)  # noqa: SIM115
        self._end = 0
        self._add_offset()

    def add(self, numbers: list[int]) -> None:
        array("i", numbers).tofile(self._values)
        self._end += len(numbers)
        self._add_offset()

    def mapped(self) -> _Ragged:
        """All rows, in memory only as far as they are being read."""
        return _Ragged(_mapped(self._values, np.int32), _mapped(self._offsets, np.int64))

    def _add_offset(self) -> None:
        array("q", [self._end]).tofile(self._offsets)


def _mapped(file: IO[bytes], dtype: type[np.generic]) -> np.ndarray:
    with file:
        file.flush()
        if not file.tell():
            return np.empty(0, dtype)  # nothing cannot be mapped
        # A plain array: numpy would pickle a memmap into memory, on the way to Ray's object store.
        return np.asarray(np.memmap(file, dtype, "r"))


class Examples(Sequence[Example]):
    """Rows that were tokenised, in flat arrays; reading one makes an Example.

    Four bytes a number, where Python's lists take ten times as many: on disk where they are made, and in Ray's
    object store one copy for all workers of a host.
    """

    def __init__(
        self, kind: type[Example], input_ids: _Ragged, labels: _Ragged, segment_ids: _Ragged
    ) -> None:
        self._kind, self._input_ids, self._labels, self._segment_ids = kind, input_ids, labels, segment_ids

    @classmethod
    def of(cls, rows: Iterable[Example]) -> Examples:
        """The rows, which are all of one class and read once, one by one; what is made of them lies on disk."""
        kind = Example
        input_ids, labels, segment_ids = _RaggedFile(), _RaggedFile(), _RaggedFile()
        for row in rows:
            kind = type(row)
            input_ids.add(row.input_ids)
            labels.add(row.labels)
            segment_ids.add(row.segment_ids)
        return cls(kind, input_ids.mapped(), labels.mapped(), segment_ids.mapped())

    @property
    def lengths(self) -> list[int]:
        """Tokens of each row."""
        lengths: list[int] = np.diff(self._input_ids.offsets).tolist()
        return lengths

    def __len__(self) -> int:
        return len(self._input_ids.offsets) - 1

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> list[Example]: ...
    def __getitem__(self, index: int | slice) -> Example | list[Example]:
        places = range(len(self))[index]
        if isinstance(places, range):
            return [self[place] for place in places]
        return self._kind(
            self._input_ids.row(places), self._labels.row(places), self._segment_ids.row(places)
        )


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


def blocks(rows: Iterable[T]) -> Iterator[list[T]]:
    """Some rows at a time, as many as a tokenizer is given at once; the last block holds what is left."""
    left = iter(rows)
    while block := list(islice(left, BLOCK_ROWS)):
        yield block


def pad_token_id(tokenizer: Any) -> int:
    """The id to pad with; models without one are padded with their end token, masked by position."""
    return int(tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id)
