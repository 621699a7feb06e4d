"""What is wrong with a data file, as a value: found by the checks, listed by `validate`, raised by a run.

Every check of the package yields faults, and nothing else decides what is refused. `validate` collects
all of them; a training run raises the first, in the same words.
"""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from cluster.errors import DataError

# The way to a value in a row: `("messages", 1, "role")`.
At = tuple[str | int, ...]

# Unicode's categories of spaces, controls, and zero-width and half characters.
INVISIBLE = ("Zs", "Zl", "Zp", "Cc", "Cf", "Cs")
REMEDIES = {
    "function_call": "write it as tool_calls",
    "functions": "write them as tools",
    "refusal": "write the refusal as content",
    "weight": "only assistant messages have a weight",
    "chosen": "write it as preferred_output",
    "rejected": "write it as non_preferred_output",
}


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault of a row or a line.

    `at` leads to it in the row (`("messages", 1, "role")`); `line` and `column` count characters from 1
    and are filled in by who knows the text.
    """

    reason: str
    remedy: str
    at: At = ()
    line: int | None = None
    column: int | None = None

    @property
    def message_index(self) -> int | None:
        """The message at fault, when one is."""
        steps = pairwise(self.at)
        return next((at for key, at in steps if key == "messages" and isinstance(at, int)), None)

    @property
    def param(self) -> str | None:
        """`at` as errors name a field: `messages[1].role`."""
        return dotted(self.at) or None

    def to_error(self, where: str) -> DataError:
        """The fault as a run raises it: `<where>, line 3, column 7, messages[1].role: reason; remedy`."""
        places = [where]
        places += [f"line {self.line}"] if self.line is not None else []
        places += [f"column {self.column}"] if self.column is not None else []
        places += [self.param] if self.param else []
        return DataError(f"{', '.join(places)}: {self.reason}; {self.remedy}", self.param or "data.path")


def raise_first(faults: Iterator[Fault], where: str) -> None:
    """Raise the first fault, if there is one."""
    fault = next(faults, None)
    if fault is not None:
        raise fault.to_error(where)


def dotted(path: At) -> str:
    """
    >>> dotted(("messages", 1, "role"))
    'messages[1].role'
    """
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def unknown_keys(value: Mapping[str, Any], known: tuple[str, ...], at: At, what: str) -> Iterator[Fault]:
    """A fault for each key that is not known, with the key that was probably meant.

    Keys without a value count as absent: Parquet and dumps of an API's answers are full of them.
    """
    for key, held in value.items():
        if key in known or held in (None, "", []):
            continue
        near = difflib.get_close_matches(str(key), known, n=1)
        remedy = REMEDIES.get(key) or (f"did you mean {near[0]}?" if near else "remove it")
        yield Fault(f"unknown key {key!r}: {what} holds {', '.join(known)}", remedy, (*at, key))


def text_fault(columns: Mapping[str, Any], name: str, *, may_be_empty: bool = False) -> Iterator[Fault]:
    """A fault when a column does not hold text."""
    value = columns.get(name)
    if not isinstance(value, str):
        yield Fault(f"{name} must be text, found {show(value)}", "correct or remove the row", (name,))
    elif not may_be_empty and not has_content(value):
        yield Fault(f"{name} holds no visible character", "correct or remove the row", (name,))


def has_content(text: str) -> bool:
    """Whether anything of a text can be seen: neither space, control nor zero-width characters."""
    return any(unicodedata.category(character) not in INVISIBLE for character in text)


def show(value: Any) -> str:
    """A value as it is quoted in a fault: short, and null by its JSON name."""
    text = "null" if value is None else repr(value)
    return text if len(text) <= 60 else text[:57] + "…"
