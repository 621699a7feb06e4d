"""Question and answer pairs made from passages, and the checks that decide which are kept. Pure.

No model judges a pair: each check is a rule that a reader can repeat. All but POINTING, which knows English, hold
in any language, since what they compare with is the passage and the documents themselves.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from evaluation.metrics import LETTER, UNSPACED, normalise, words

MIN_QUESTION_CHARACTERS, MAX_QUESTION_CHARACTERS = 10, 300
# These make a question too, however short: of scripts that do not part words, each character counts as one.
MIN_QUESTION_WORDS = 3
MAX_ANSWER_CHARACTERS = 400
# Of a question's words that stand anywhere in the documents. Questions in the documents' language have
# most of theirs there, if only the small words; those in another language hardly any.
MIN_KNOWN_SHARE = 0.5

QUESTION_MARKS = ("?", "？", "؟")
_LABEL = re.compile(r"^[\s>*#\-\d.()]*\**(q|question|a|answer)\s*\d*\**\s*[:.]\s*\**\s*", re.IGNORECASE)
# A question that cannot stand without the passage beside it.
_POINTING = re.compile(r"\b(?:passage|paragraph|the text|this text|text above|the author)\b", re.IGNORECASE)
# A full stop that ends no sentence: "on 9. May", "am 19. April", "z. B.", "e.g.". Two sentences taken for one do no
# harm; a part taken for a whole would teach what is not so.
_NO_END = "".join(
    rf"(?<!{text}\.)" for text in (r"[\w,] \d", r"[\w,] \d\d", r"[\w.,] [^\W\d_]", r"\.[^\W\d_]")
)
# Chinese and Japanese put no space behind a sentence, and a closing quotation mark behind one that is quoted.
_SENTENCE_END = re.compile(rf"(?<=[.!?]){_NO_END}\s+|(?<=[。！？])(?![」』”’）])\s*")
_TOKEN = re.compile(rf"[{UNSPACED}]|{LETTER}(?:(?:{LETTER}|[.,:/-])*{LETTER})?")
# In English whatever the documents are, so that its words are none of theirs.
GAP_QUESTION = "Which words are missing: "
GAP = "____"
# With less beside it, a gap could be anything: "Ask ____."
MIN_WORDS_BESIDE_GAP = 2


class Passage(NamedTuple):
    """A chunk of a document: its file's name, the titles above it, and its text."""

    document: str
    context: str
    text: str


class Pair(NamedTuple):
    """A training row in the making."""

    passage: Passage
    question: str
    answer: str


class Fault(StrEnum):
    """Why a pair is not kept; the first that holds, in this order."""

    NO_QUESTION = "does not end as a question"
    LENGTH = "question or answer too short or too long"
    NOT_IN_PASSAGE = "answer is not in the passage"
    IN_TITLE = "answer is in the title"
    IN_QUESTION = "answer is in the question"
    POINTING = "question points at the passage"
    LANGUAGE = "question is not in the documents' language"
    TEST = "asks a test question"
    DUPLICATE = "asked before"


@dataclass(frozen=True)
class Sifted:
    """The pairs that are kept, in the order in which they were made, and how many fell to each check."""

    kept: tuple[Pair, ...]
    dropped: dict[Fault, int]

    @property
    def num_made(self) -> int:
        return len(self.kept) + sum(self.dropped.values())


def sift(pairs: Iterable[Pair], passages: Sequence[Passage], test_questions: Collection[str] = ()) -> Sifted:
    """Each pair through all checks. `passages` are all that the pairs were made from."""
    known = {word for passage in passages for word in words(f"{passage.context} {passage.text}")}
    tests = {normalise(question) for question in test_questions}
    kept: dict[str, Pair] = {}
    dropped: Counter[Fault] = Counter()
    for pair in pairs:
        text = normalise(pair.question)
        fault = fault_of(pair, known)
        if fault is None and text in tests:
            fault = Fault.TEST
        if fault is None and text in kept:
            fault = Fault.DUPLICATE
        if fault is None:
            kept[text] = pair
        else:
            dropped[fault] += 1
    return Sifted(tuple(kept.values()), {fault: dropped[fault] for fault in Fault if dropped[fault]})


def fault_of(pair: Pair, known: Collection[str]) -> Fault | None:
    """The first check that a pair fails on its own. `known` are the words of the documents.

    ("How many days?", "27 days") of "Leave" / "All get 27 days." -> None; the answer "28 days" -> NOT_IN_PASSAGE
    """
    question, answer, passage = words(pair.question), words(pair.answer), pair.passage
    if not pair.question.endswith(QUESTION_MARKS):
        return Fault.NO_QUESTION
    is_short = len(pair.question) < MIN_QUESTION_CHARACTERS and len(question) < MIN_QUESTION_WORDS
    is_long = len(pair.question) > MAX_QUESTION_CHARACTERS or len(pair.answer) > MAX_ANSWER_CHARACTERS
    if is_short or is_long or not answer:
        return Fault.LENGTH
    if not _holds(words(passage.text), answer):
        return Fault.NOT_IN_PASSAGE
    if _holds(words(passage.context), answer):
        return Fault.IN_TITLE
    if _holds(question, answer):
        return Fault.IN_QUESTION
    if _POINTING.search(pair.question):
        return Fault.POINTING
    own = words(pair.question.removeprefix(GAP_QUESTION))
    if sum(word in known for word in own) < MIN_KNOWN_SHARE * len(own):
        return Fault.LANGUAGE
    return None


def _holds(text: Sequence[str], part: Sequence[str]) -> bool:
    """Whether the words stand in the text, one after the other."""
    return f" {' '.join(part)} " in f" {' '.join(text)} "


def read_pairs(reply: str, passage: Passage) -> Iterator[Pair]:
    """The pairs of a reply, in the lines `Question: …` and `Answer: …`; numbering and bold are passed over.

    A question without an answer, as at the end of a reply that was cut short, makes no pair.
    """
    question = ""
    for line in reply.splitlines():
        label = _LABEL.match(line)
        if label is None:
            continue
        text = line[label.end() :].strip().strip('*"“”').strip()
        if label[1].lower().startswith("q"):
            question = text
        elif question:
            yield Pair(passage, question, text)
            question = ""


def gap_pairs(passage: Passage) -> Iterator[Pair]:
    """A question for each sentence that holds a name or a number, and words beside it: which belong in its gap.

    Names are told by their capital, so that in scripts without any only numbers count. The answer is the whole
    sentence, so that it is true, and taught in the documents' own words.
    "Leave lapses on 19 April." -> 'Which words are missing: "Leave lapses on ____."?'
    """
    for sentence in sentences(passage.text):
        found = _name_or_number(sentence)
        if found is None:
            continue
        gapped = f"{sentence[: found.start]}{GAP}{sentence[found.stop :]}"
        if len(words(gapped)) >= MIN_WORDS_BESIDE_GAP:
            yield Pair(passage, f'{GAP_QUESTION}"{gapped}"?', sentence)


def _name_or_number(sentence: str) -> slice | None:
    """Where the first words stand that begin large or hold a digit: "Leave lapses on 19 April." -> "19 April"."""
    found: slice | None = None
    # The first word of a sentence is written large whatever it is; so are the English I, and letters of abbreviations.
    for token in list(_TOKEN.finditer(sentence))[1:]:
        is_marked = any(map(str.isdigit, token[0])) or (token[0][0].isupper() and len(token[0]) > 1)
        if found is None:
            found = slice(token.start(), token.end()) if is_marked else None
        elif is_marked and sentence[found.stop : token.start()] == " ":
            found = slice(found.start, token.end())
        else:
            break
    return found


def sentences(text: str) -> list[str]:
    """The whole sentences of a passage, each on one line; headings are none, and each cell of a table is its own.

    "## Eating\n\nLunch is at\nnoon. Bring a cup" -> ["Lunch is at noon."]
    """
    blocks = [""]
    for line in map(str.strip, text.splitlines()):
        if line.startswith("|"):
            blocks += [*line.split("|"), ""]
        elif not line or line.startswith(("#", "- ", "* ")):
            blocks.append(line.removeprefix("- ").removeprefix("* "))
        else:
            blocks[-1] += f" {line}"
    parts = [part.strip() for block in blocks for part in _SENTENCE_END.split(block)]
    return [part for part in parts if part.endswith((".", "!", "。", "！")) and not part.startswith("#")]
