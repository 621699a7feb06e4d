"""Which rows are equal: 24 bytes a row, so that files of millions of rows can be compared."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np

from training.faults import Fault

# Lines that a warning names before it says "…".
NAMED_LINES = 5


@dataclass
class Lines:
    """How many lines share a property, and the first of them."""

    count: int = 0
    first: list[int] = field(default_factory=list)

    @staticmethod
    def of(lines: Iterable[int]) -> Lines:
        found = Lines()
        for line in sorted(lines):
            found.add(line)
        return found

    def add(self, line: int) -> None:
        self.count += 1
        if len(self.first) < NAMED_LINES:
            self.first.append(line)

    def warning(self, reason: str, remedy: str) -> Fault:
        """`3 rows are …` with the lines; `reason` has {} in place of the first words.

        >>> Lines(2, [4, 9]).warning("{} too long", "cut them").reason
        '2 rows are too long (lines 4, 9)'
        """
        rows, word = ("1 row is", "line") if self.count == 1 else (f"{self.count} rows are", "lines")
        named = ", ".join(map(str, self.first)) + (", …" if self.count > len(self.first) else "")
        return Fault(f"{reason.format(rows)} ({word} {named})", remedy, line=self.first[0])


class Identities:
    """Hashes of inputs and targets by line. Of a million rows two collide in one file of 30 million."""

    def __init__(self) -> None:
        self._lines, self._inputs, self._targets = array("q"), array("q"), array("q")

    def add(self, line: int, inputs: bytes, target: bytes) -> None:
        self._lines.append(line)
        self._inputs.append(hash(inputs))
        self._targets.append(hash(target))

    def warnings(self) -> Iterator[Fault]:
        """Rows that occur again, and rows whose input occurs with another target."""
        lines, inputs, targets = self._arrays()
        # By line last, so that of equal rows the later ones are named.
        order = np.lexsort((lines, targets, inputs))
        same = (inputs[order][1:] == inputs[order][:-1]) & (targets[order][1:] == targets[order][:-1])
        repeated = Lines.of(lines[order][1:][same].tolist())
        if repeated.count:
            yield repeated.warning("{} equal to an earlier row", "remove them, or they count twice")
        order = np.lexsort((lines, inputs))
        other = (inputs[order][1:] == inputs[order][:-1]) & (targets[order][1:] != targets[order][:-1])
        contradicting = Lines.of(lines[order][1:][other].tolist())
        if contradicting.count:
            yield contradicting.warning(
                "{} equal to another row but for the label", "decide for one label, or remove both"
            )

    def lines_shared_with(self, other: Identities) -> Lines:
        """Lines of these rows whose input occurs in `other`."""
        lines, inputs, _ = self._arrays()
        return Lines.of(lines[np.isin(inputs, other._arrays()[1])].tolist())

    def _arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Lines, and the hashes of their inputs and targets: [rows] each, int64."""
        parts = (self._lines, self._inputs, self._targets)
        lines, inputs, targets = (np.array(part, dtype=np.int64) for part in parts)
        return lines, inputs, targets
