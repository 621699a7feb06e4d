"""What a retrieval-augmented prompt says, and what is left out when it does not fit. Pure.

Passages stand in the last user turn, before the question, in the wording of `cluster.grounding`. Their text is
data: it is never read as a template and cannot open a turn (`tokenizer.neutralise`).
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import NamedTuple

from cluster.grounding import grounded_question
from serving.tokenizer import Message


class Passage(NamedTuple):
    """A piece of a document, as retrieval found it."""

    chunk_id: str
    document_id: str
    filename: str
    text: str
    score: float  # cosine similarity of question and passage, -1 to 1
    page: int | None = None  # from 1; None where the format has no pages


class Fitted(NamedTuple):
    """A prompt that fits. `num_passages` are the best ones kept, `num_turns_dropped` exchanges."""

    token_ids: list[int]
    num_passages: int
    num_turns_dropped: int


def grounded(messages: Sequence[Message], passages: Sequence[Passage]) -> list[Message]:
    """`messages` with the passages put before the last user turn's question."""
    if not passages:
        return list(messages)
    at = last_user_turn(messages)
    content = grounded_question(messages[at].content, [passage.text for passage in passages])
    return [*messages[:at], Message("user", content), *messages[at + 1 :]]


def fit(
    messages: Sequence[Message],
    passages: Sequence[Passage],
    render: Callable[[list[Message]], list[int]],
    limits: Sequence[int],
) -> Fitted | None:
    """The fullest conversation of no more tokens than the limit, as a prompt; None when the bare question has more.

    Left out first are the lowest hits, then the oldest exchanges, last the best hit. System text and the last user
    turn always stay. Of `limits`, lowest first, the next one counts where the best hit would be left out.
    """
    steps = list(_steps(messages, len(passages)))

    @cache
    def prompt(number: int) -> list[int]:
        num_passages, num_dropped = steps[number]
        return render(grounded(drop_exchanges(messages, num_dropped), passages[:num_passages]))

    def fits(limit: int, number: int) -> bool:
        return len(prompt(number)) <= limit

    fitted = None
    for limit in limits:
        number = _first(len(steps), partial(fits, limit))
        if number is not None:
            fitted = Fitted(prompt(number), *steps[number])
            if fitted.num_passages:
                break
    return fitted


def _first(count: int, holds: Callable[[int], bool]) -> int | None:
    """The first number below `count` from which on `holds` is true; None when it never is.

    Rendering is what takes time: mostly all fits, which is asked once, or the question alone is too long, twice.
    """
    if holds(0):
        return 0
    last = count - 1
    return bisect_left(range(last), True, lo=1, key=holds) if holds(last) else None


def _steps(messages: Sequence[Message], num_passages: int) -> list[tuple[int, int]]:
    """(passages kept, exchanges dropped), from everything to the bare question."""
    num_exchanges = len(_exchange_starts(messages))
    fewer_hits = [(kept, 0) for kept in range(num_passages, 0, -1)] or [(0, 0)]
    best_hits = min(num_passages, 1)
    fewer_turns = [(best_hits, dropped) for dropped in range(1, num_exchanges + 1)]
    last = [(0, num_exchanges)] if num_passages else []
    return [*fewer_hits, *fewer_turns, *last]


def last_user_turn(messages: Sequence[Message]) -> int:
    """Index of the last user message; of the last message if there is none."""
    users = [index for index, message in enumerate(messages) if message.role == "user"]
    return users[-1] if users else len(messages) - 1


def drop_exchanges(messages: Sequence[Message], count: int) -> list[Message]:
    """`messages` without the oldest `count` exchanges: a user message and what answered it."""
    if count == 0:
        return list(messages)
    starts = [*_exchange_starts(messages), last_user_turn(messages)]
    cut = starts[count]
    return [message for index, message in enumerate(messages) if index >= cut or message.role == "system"]


def without_exchanges(messages: Sequence[Message]) -> list[Message]:
    """What is never left out: the system text, and the last user turn with what follows it."""
    return drop_exchanges(messages, len(_exchange_starts(messages)))


def _exchange_starts(messages: Sequence[Message]) -> list[int]:
    """Indices at which the exchanges before the last user turn begin."""
    question = last_user_turn(messages)
    history = [index for index in range(question) if messages[index].role != "system"]
    return [
        index for position, index in enumerate(history) if messages[index].role == "user" or position == 0
    ]


# Letters of scripts without spaces (Thai, Lao, Burmese, Khmer, Japanese, Chinese): each counts as a word.
_UNSPACED = r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff"
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W{_UNSPACED}]+")
# A follow-up leans on what was said before: it is short, or points back.
_FOLLOW_UP_WORDS = frozenset(
    """
    it its they them their theirs that this those these there he she him her his and or but also then so
    one ones same other another
    """.split()  # noqa: SIM905 - as in citations
)
_SHORT_QUESTION_WORDS = 4
# Of the question before; the embedder reads only so much, and the last question must be in it.
_MAX_CARRIED_WORDS = 40
# Of a question, to tell whether it leans back: megabytes of words would hold up every other request.
_MAX_READ_CHARS = 10_000
# Of a question that is searched or routed by: more than embedders read. Of megabytes all would be tokenised first.
MAX_QUERY_CHARS = 40_000


def standalone_query(messages: Sequence[Message]) -> str:
    """What to search for: the last question, with the one before it when it cannot stand alone; of both the beginning.

    >>> standalone_query([Message("user", "How long is the boiler's warranty?"),
    ...                   Message("assistant", "Two years."), Message("user", "And in the other manual?")])
    "How long is the boiler's warranty? And in the other manual?"
    """
    asked = [message for message in messages if message.role == "user"] or messages[-1:]
    questions = [message.content.strip()[:MAX_QUERY_CHARS] for message in asked[-2:]]
    words = [word.lower() for word in _WORD.findall(questions[-1][:_MAX_READ_CHARS])]
    leans_back = len(words) <= _SHORT_QUESTION_WORDS or any(word in _FOLLOW_UP_WORDS for word in words)
    if not leans_back or len(questions) == 1:
        return questions[-1]
    carried = questions[-2].split(maxsplit=_MAX_CARRIED_WORDS)[:_MAX_CARRIED_WORDS]
    return " ".join([*carried, questions[-1]])
