"""From an answer to its sources. Pure.

A `[n]` that the model wrote and that names a passage it was given becomes one citation, `[n, m]` one of each. If it
wrote none, the passages that contain the answer's words are cited for the whole answer: a word counts unless
it is a stop word or was in the question, numbers count three times, and a passage is cited when it holds
at least half of that weight and no other passage holds more.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from serving.prompts import Passage


class Citation(NamedTuple):
    """`text[start:end]` of the answer rests on passage `number`, counted from 1."""

    number: int
    start: int
    end: int


MIN_SHARE = 0.5
NUMBER_WEIGHT = 3
_MARKER = re.compile(r"\[(\d{1,3}(?:, ?\d{1,3})*)\]")
_WORD = re.compile(r"\w+")
_STOP_WORDS = frozenset(
    """
    a an the of in on at to for from by with and or but not no is are was were be been has have had do
    does did will would can could may might must shall should it its this that these those there their
    they you your we our i he she his her as if than then so such each any all more most per about into
    over after before also only
    """.split()  # noqa: SIM905 - eighty quoted words are no easier to read
)


def cite(answer: str, passages: Sequence[Passage], question: str = "") -> list[Citation]:
    """The citations of an answer, in the order of the text; each names a passage that was sent."""
    written = [
        Citation(number, match.start(), match.end())
        for match in _MARKER.finditer(answer)
        for number in map(int, match[1].split(","))
        if 1 <= number <= len(passages)
    ]
    return written or _by_words(answer, passages, question)


def _by_words(answer: str, passages: Sequence[Passage], question: str) -> list[Citation]:
    words = _content_words(answer)
    # Every good hit repeats the question's words; only what the answer adds tells them apart.
    words = (words - _content_words(question)) or words
    total = sum(map(_weight, words))
    if not total:
        return []
    shares = [
        sum(map(_weight, words & _content_words(f"{passage.filename} {passage.text}"))) / total
        for passage in passages
    ]
    best = max(shares, default=0.0)
    if best < MIN_SHARE:
        return []
    return [Citation(number, 0, len(answer)) for number, share in enumerate(shares, start=1) if share == best]


def _content_words(text: str) -> set[str]:
    return {word for word in map(str.lower, _WORD.findall(text)) if word not in _STOP_WORDS}


def _weight(word: str) -> int:
    return NUMBER_WEIGHT if word.isdigit() else 1
