"""Rows of whole numbers, of any length each, in two flat arrays that lie on disk. Knows nothing of what they mean."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

import numpy as np

from cluster.errors import Unavailable
from cluster.settings import settings

# Rows of 4,096 tokens take 70 MB then.
COUNTED_AT_ONCE = 1000


@dataclass(frozen=True, slots=True)
class Ragged:
    """Rows one after the other: row i is `values[offsets[i]:offsets[i + 1]]`.

    values:  [total], int32
    offsets: [rows + 1], int64
    """

    values: np.ndarray
    offsets: np.ndarray

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def row(self, index: int) -> list[int]:
        numbers: list[int] = self.values[self.offsets[index] : self.offsets[index + 1]].tolist()
        return numbers

    def num_other_than(self, value: int) -> np.ndarray:
        """How many numbers of each row are not `value`: [rows], int64."""
        counts = np.empty(len(self), np.int64)
        for start in range(0, len(self), COUNTED_AT_ONCE):  # all rows together may exceed memory
            offsets = self.offsets[start : start + COUNTED_AT_ONCE + 1]
            is_other = self.values[offsets[0] : offsets[-1]] != value
            up_to = np.concatenate(([0], np.cumsum(is_other)))
            counts[start : start + COUNTED_AT_ONCE] = np.diff(up_to[offsets - offsets[0]])
        return counts

    def save(self, folder: Path, name: str) -> None:
        with _writing():
            np.save(folder / f"{name}.npy", self.values)
            np.save(folder / f"{name}_offsets.npy", self.offsets)

    @staticmethod
    def load(folder: Path, name: str) -> Ragged:
        """What was saved, in memory only as far as it is being read."""
        files = (folder / f"{name}.npy", folder / f"{name}_offsets.npy")
        return Ragged(*(_plain(np.load(file, mmap_mode="r")) for file in files))


class RaggedFile:
    """Rows on their way to disk. The files have no name: the kernel frees them with the process that made them."""

    def __init__(self) -> None:
        folder = settings().cache_dir / "tokens"  # not the folder of temporary files, which may lie in memory
        folder.mkdir(parents=True, exist_ok=True)
        self._values = TemporaryFile(dir=folder)  # noqa: SIM115 - closed once it is mapped
        self._offsets = TemporaryFile(dir=folder)  # noqa: SIM115
        self._end = 0
        self._add_offset()

    def add(self, numbers: list[int]) -> None:
        """One row more. Raises OverflowError for a number beyond 32 bits."""
        with _writing():
            array("i", numbers).tofile(self._values)
            self._end += len(numbers)
            self._add_offset()

    def mapped(self) -> Ragged:
        """All rows, in memory only as far as they are being read. No further row can be added."""
        with _writing():  # what is still to be written is
            return Ragged(_mapped(self._values, np.int32), _mapped(self._offsets, np.int64))

    def _add_offset(self) -> None:
        array("q", [self._end]).tofile(self._offsets)


@contextmanager
def _writing() -> Iterator[None]:
    """Raises Unavailable for a disk that is full."""
    try:
        yield
    except OSError as exc:
        raise Unavailable(
            f"cannot write tokens to {settings().cache_dir} ({exc.strerror or exc}); free room there, or set "
            "HAMLET_HOME to a folder on another disk"
        ) from exc


def _mapped(file: IO[bytes], dtype: type[np.generic]) -> np.ndarray:
    with file:
        file.flush()
        if not file.tell():
            return np.empty(0, dtype)  # nothing cannot be mapped
        return _plain(np.memmap(file, dtype, "r"))


def _plain(mapped: np.ndarray) -> np.ndarray:
    """The same memory as a plain array: numpy's class for it would be copied on the way to Ray's object store."""
    return np.asarray(mapped)
