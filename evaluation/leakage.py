"""Test questions that stand in the training rows: a model would be praised for what it was told."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from cluster.errors import DataError, some_of
from cluster.json_lines import read_rows
from evaluation.metrics import contains_answer, words
from evaluation.questions import Question

MAX_LEAKS_NAMED = 5
# Shorter questions are looked for as whole turns only: "How are you?" inside another one is no leak.
MIN_WORDS = 5
QUESTION_KEYS = ("question", "prompt", "instruction")
REPLY_KEYS = ("answer", "completion", "response", "output")

Words = tuple[str, ...]


def check_leakage(questions: Sequence[Question], training: Path) -> None:
    """Raise DataError naming the lines of `training` that ask a test question.

    Compared without case, punctuation, articles and spacing, as SQuAD compares answers. A question is found as a
    whole turn, inside one (below passages, say), and with one word more, less or other where the row's reply holds
    its answer. Any other rewording is no leak: that the fact was taught is what the kind `taught` says.
    """
    tests = _Tests(questions)
    leaks = [
        f"line {number} ({id_})"
        for number, row in read_rows(training)
        for id_ in sorted({id_ for turn in _turns(row) for id_ in tests.asked_in(turn, _replies(row))})
    ]
    if leaks:
        raise DataError(
            f"{training} asks test questions: {some_of(leaks, MAX_LEAKS_NAMED)}; a model would be praised for what "
            "it was told, so reword or remove them and train again",
            "training",
        )


class _Tests:
    """Test questions, indexed so that each turn of a large training file is looked up, not compared with all."""

    def __init__(self, questions: Sequence[Question]) -> None:
        self._most_words = 0
        self._whole: dict[Words, str] = {}
        self._by_beginning: defaultdict[Words, list[tuple[Words, str]]] = defaultdict(list)
        self._near: defaultdict[frozenset[str], list[Question]] = defaultdict(list)
        for question in questions:
            asked = tuple(words(question.question))
            self._whole[asked] = question.id
            self._most_words = max(self._most_words, len(asked))
            if len(asked) >= MIN_WORDS:
                self._by_beginning[asked[:MIN_WORDS]].append((asked, question.id))
                for key in _all_but_one(asked):
                    self._near[key].append(question)

    def asked_in(self, turn: Words, reply: str) -> Iterator[str]:
        """Ids of the questions that this turn asks; `reply` is what the row teaches to answer."""
        if turn in self._whole:
            yield self._whole[turn]
        for start in range(len(turn) - MIN_WORDS + 1):
            for asked, id_ in self._by_beginning.get(turn[start : start + MIN_WORDS], ()):
                if turn[start : start + len(asked)] == asked:
                    yield id_
        if MIN_WORDS <= len(turn) <= self._most_words + 1:
            near = {
                question.id: question for key in _all_but_one(turn) for question in self._near.get(key, ())
            }
            for id_, question in near.items():
                if contains_answer(reply, question.right_answers):
                    yield id_


def _all_but_one(text: Words) -> set[frozenset[str]]:
    """All words of a text, and all but each one: two that differ by one word have one of these in common."""
    every = frozenset(text)
    return {every, *(every - {word} for word in every)}


def _turns(row: dict[str, Any]) -> set[Words]:
    """User texts of a chat or preference row, or the question of a plain one, as words."""
    messages = _holder(row).get("messages")
    texts = (
        _texts_of(messages, "user") if isinstance(messages, list) else [row.get(key) for key in QUESTION_KEYS]
    )
    return {tuple(words(text)) for text in texts if isinstance(text, str)}


def _replies(row: dict[str, Any]) -> str:
    """What the row teaches to answer."""
    told = (_holder(row).get("messages"), row.get("preferred_output"))
    turns = [turn for messages in told if isinstance(messages, list) for turn in messages]
    texts = [*_texts_of(turns, "assistant"), *(row.get(key) for key in REPLY_KEYS)]
    return "\n".join(text for text in texts if isinstance(text, str))


def _holder(row: dict[str, Any]) -> dict[str, Any]:
    return row["input"] if isinstance(row.get("input"), dict) else row


def _texts_of(messages: Sequence[Any], role: str) -> list[Any]:
    return [
        _text(turn.get("content")) for turn in messages if isinstance(turn, dict) and turn.get("role") == role
    ]


def _text(content: Any) -> Any:
    """A message's text; of parts, their texts."""
    if not isinstance(content, list):
        return content
    return "\n".join(str(part["text"]) for part in content if isinstance(part, dict) and "text" in part)
