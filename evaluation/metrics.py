"""Measures of an answer that need no judge. Each states its definition, its source and a worked line."""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Collection, Sequence
from enum import StrEnum

# Characters that no border parts from the next word, as a regular expression's set: of scripts without spaces
# (Thai, Lao, Burmese, Khmer, Japanese, Chinese), and Korean, whose particles are written onto the word.
UNSPACED = r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7a3"

_SPELLINGS = str.maketrans(
    dict.fromkeys("‐‑‒–—−", "-")
    | dict.fromkeys("‘’‛′", "'")
    | dict.fromkeys("“”„‟″«»", '"')
    | {"⁄": "/"}
    | dict.fromkeys("\u00ad\u200b\u2060\ufeff")  # which nobody sees
)
# 1,234.5 is one number; the comma is read as a separator of thousands only where three digits follow, else as the
# decimal point that it is in most of Europe.
_THOUSANDS = re.compile(r"(?<=\d)[,\u00a0\u202f](?=\d{3}(?!\d))")
_DECIMAL_COMMA = re.compile(r"(?<=\d),(?=\d)")
_PERCENT = re.compile(r"(?<=\d) ?per ?cent\b")
_SPACE_AT_SIGN = re.compile(r"(?<=\d) (?=[%°€$£¥])|(?<=[€$£¥]) (?=\d)")

# An article has a word behind it: the last word of "vitamin A" is none.
_ARTICLES = re.compile(r"\b(?:an|the)\b|\ba\b(?= )")
# A number's sign and its decimal point are no punctuation.
_OF_A_NUMBER = re.compile(r"((?<!\S)-(?=\d)|(?<=\d)\.(?=\d))")
_WORD = re.compile(rf"[{UNSPACED}]|[^\s{UNSPACED}]+")
LETTER = rf"[^\W{UNSPACED}]"
_NUMBER = re.compile(rf"(?<!{LETTER})(?<!\.)-?\d+(?:\.\d+)?(?!\.?\d)")

# How models say that they have no answer, folded. Whole phrases, and of whom they are said: "not" alone stands in
# right answers, and what "is not provided" or "does not cover" something may be lunch or an insurance.
_SPEAKER = r"(?:\b(?:i|we)|^|[.,:;!])(?: really| simply| currently)? ?"
_SOURCE = (
    r"(?:handbook|documents?|documentation|passages?|context|text|excerpts?|sources?|manual|information)"
)
_NOT, _BE = r"(?: not|n't)(?: \w+ly)?", r"(?:is|are|was|were)"
_CANNOT = r"(?:can ?not|can't|could not|couldn't)"
_ABSTENTION = re.compile(
    "|".join(
        (
            rf"{_SPEAKER}(?:do|did){_NOT} know",
            rf"{_SPEAKER}(?:do|did){_NOT} have (?:\w+ ){{0,3}}?(?:information|details?|data|answer)\b",
            rf"{_SPEAKER}(?:{_CANNOT}|(?:(?:am|'m|are|'re) )?(?:unable|not able) to)"
            r" (?:answer|find|say|tell|determine|provide (?:\w+ )?(?:answer|information|details?)\b)",
            rf"(?:{_SPEAKER}(?:am|'m|are|'re) not|^not) (?:\w+ly )?(?:sure|certain)\b",
            rf"\b(?:do|does|did){_NOT} (?:say|state|mention|specify|indicate)\b",
            rf"\b{_SOURCE} (?:do|does|did){_NOT} (?:have|contain|provide|include|cover|give|answer|address)\b",
            rf"\b{_BE}{_NOT} (?:stated|mentioned|specified|documented|known)\b",
            rf"\b(?:{_BE}{_NOT}|{_CANNOT} be) (?:\w+ )?in (?:\w+ ){{0,3}}?{_SOURCE}\b",
            rf"\b(?:information|details?|answer|data) (?:\w+ ){{0,5}}?{_BE}{_NOT} (?:provided|given|available)\b",
            rf"\b{_CANNOT} be (?:answered|determined)\b|\bnot possible to (?:answer|say|tell|determine)\b",
            r"\b(?:there(?: is| was|'s)|i have|contains?|provides?|gives?|has) no"
            r" (?:\w+ )?(?:information|mention|answer|details?|data)\b",
            r"\bno mention\b|\bno (?:information|answer|data) (?:is )?(?:found|given|available|provided)\b",
            r"^no (?:information|answer|data)\W*$|\b(?:not enough|insufficient) information\b",
            r"\b(?:is|are|was|were|remains?) unknown\b|^unknown\W*$|\bunanswerable\b",
        )
    )
)


class Failure(StrEnum):
    """Where an answer went wrong."""

    NONE = "none"
    RETRIEVAL_MISS = "retrieval miss"  # the document was not among the hits
    GENERATION_ERROR = "generation error"  # it was, and the answer is wrong all the same
    NOT_RETRIEVED = "no retrieval"  # the cell does not retrieve


def folded(text: str) -> str:
    """One spelling of what means the same, in which answers are compared: Unicode's form KC and folded case, plain
    dashes, quotes and spaces, numbers without separators of thousands, no space between a number and its sign.

    "1,234.5 –\u00a0“Straße”, 20 percent" -> '1234.5 - "strasse", 20%'; "4,70 €" -> "4.70€"
    """
    text = unicodedata.normalize("NFKC", _THOUSANDS.sub("", text)).casefold().translate(_SPELLINGS)
    text = _PERCENT.sub("%", _DECIMAL_COMMA.sub(".", " ".join(text.split())))
    return _SPACE_AT_SIGN.sub("", text)


def normalise(text: str) -> str:
    """Folded, without punctuation, articles and superfluous spaces.

    Source: SQuAD, Rajpurkar et al. 2016, evaluation script; but in any script, and a number keeps its sign and its
    decimal point, without which 4.5 would be 45.
    "The Canteen, a  hall: –4.5" -> "canteen hall -4.5"
    """
    parts = _OF_A_NUMBER.split(folded(text))
    parts[::2] = ["".join(char for char in part if not _is_punctuation(char)) for part in parts[::2]]
    return " ".join(_ARTICLES.sub(" ", "".join(parts)).split())


def _is_punctuation(char: str) -> bool:
    return char in string.punctuation or unicodedata.category(char).startswith("P")


def words(text: str) -> list[str]:
    """Normalised words; of scripts that do not part words, characters.

    "The MV-83, 請假" -> ["mv83", "請", "假"]
    """
    return _WORD.findall(normalise(text))


def exact_match(answer: str, right_answers: Collection[str]) -> float:
    """1 if the normalised answer equals one of the normalised right answers, else 0.

    Source: SQuAD, Rajpurkar et al. 2016, section 6.1.
    ("The 27 days.", ["27 days"]) -> 1.0; ("27 days a year", ["27 days"]) -> 0.0
    """
    return float(normalise(answer) in {normalise(right) for right in right_answers})


def token_f1(answer: str, right_answers: Collection[str]) -> float:
    """Harmonic mean of precision and recall over the bags of words; the best over all right answers.

    Source: SQuAD, Rajpurkar et al. 2016, section 6.1; over characters where a script does not part words.
    ("27 days of leave", ["27 days"]): precision 2/4, recall 2/2 -> 2/3
    """
    return max((_f1(words(answer), words(right)) for right in right_answers), default=0.0)


def cohens_kappa(one: Sequence[bool], other: Sequence[bool]) -> float:
    """How far two judges of the same items agree beyond chance: 1 always, 0 as chance would.

    Source: Cohen 1960, A coefficient of agreement for nominal scales.
    Agreeing on 35 of 50, one saying yes 25 times and the other 30: (0.7 - 0.5) / (1 - 0.5) = 0.4.
    Where both say the same of everything, chance gives that too; it is then 1 by agreement.
    """
    observed = sum(a == b for a, b in zip(one, other, strict=True)) / len(one)
    yes, other_yes = sum(one) / len(one), sum(other) / len(other)
    by_chance = yes * other_yes + (1 - yes) * (1 - other_yes)
    return 1.0 if by_chance == 1 else (observed - by_chance) / (1 - by_chance)


def _f1(given: Sequence[str], right: Sequence[str]) -> float:
    common = sum((Counter(given) & Counter(right)).values())
    if not common:
        return 0.0
    precision, recall = common / len(given), common / len(right)
    return 2 * precision * recall / (precision + recall)


def contains_answer(answer: str, right_answers: Collection[str]) -> bool:
    """Whether a right answer stands in the answer as whole words and whole numbers, both folded.

    The measure of open-domain question answering (Chen et al. 2017, DrQA, matches by the same rule); it
    fits models that answer in sentences. Scripts that do not part words have no border to ask for.
    ("You get 27 days.", ["27"]) -> True; ("You get 127 days.", ["27"]) -> False; ("27.5 days", ["27"]) -> False
    ("年假是二十七天", ["二十七天"]) -> True
    """
    text = folded(answer)
    return any(re.search(_whole(folded(right)), text) is not None for right in right_answers)


def _whole(right: str) -> str:
    """Pattern of a text with nothing beside it that would make it part of another word or number."""
    before = "" if re.match(f"[{UNSPACED}]", right) else f"(?<!{LETTER})"
    behind = "" if re.match(f"[{UNSPACED}]", right[-1:]) else f"(?!{LETTER})"
    if right[:1].isdigit():
        before += r"(?<!\d[.:])(?<!\W-)(?<!^-)"
    if right[-1:].isdigit():
        behind += r"(?![.:]\d)"
    return before + re.escape(right) + behind


def numbers(text: str) -> list[float]:
    """Numbers in a text. "1,234.5 euros, -3, 4,70" -> [1234.5, -3.0, 4.7]"""
    return [float(found) for found in _NUMBER.findall(folded(text))]


def number_within(answer: str, right_answers: Collection[str], tolerance: float) -> bool:
    """Whether the answer holds a number within relative `tolerance` of the only number of a right answer.

    A right answer with no number or with several cannot be matched.
    ("about 19.8 kg", ["20 kg"], 0.02): |19.8 - 20| = 0.2 <= 0.02 * 20 -> True
    """
    given = numbers(answer)
    wanted = [found[0] for right in right_answers if len(found := numbers(right)) == 1]
    # The added part of a billionth keeps 19.6 within 2 % of 20 in binary fractions.
    return any(abs(n - w) <= tolerance * abs(w) * (1 + 1e-9) for n in given for w in wanted)


def has_form(answer: str, pattern: str) -> bool:
    """Whether the whole answer matches a regular expression: format adherence, judged by a rule.

    Source: IFEval, Zhou et al. 2023, whose instructions are those that a program can verify.
    ("It is 27.", "[^.]+[.]") -> True; ("It is 27. Ask HR.", "[^.]+[.]") -> False
    """
    return re.fullmatch(pattern, answer.strip(), re.DOTALL) is not None


def citation_precision(cited: Collection[str], document: str) -> float | None:
    """Share of the cited documents that hold the answer; None when nothing is cited.

    Source: ALCE, Gao et al. 2023, section 3, with the question's document in place of an entailment model.
    (["leave.md", "travel.md"], "leave.md") -> 0.5
    """
    documents = set(cited)
    return float(document in documents) / len(documents) if documents else None


def citation_recall(cited: Collection[str], document: str) -> float:
    """1 if the document that holds the answer is cited, else 0. Source as for `citation_precision`.

    (["leave.md", "travel.md"], "leave.md") -> 1.0
    """
    return float(document in cited)


def abstains(answer: str) -> bool:
    """Whether the answer says that it has no answer; an empty one says nothing and counts as abstaining.

    By phrases, in English: the measure of SQuAD 2.0 (Rajpurkar et al. 2018), whose models abstain with an
    empty string, carried over to sentences.
    ("The handbook does not say.") -> True; ("Lunch is not provided.") -> False
    """
    return not answer.strip() or _ABSTENTION.search(folded(answer)) is not None


def fabricates(answer: str, right_answers: Collection[str]) -> bool:
    """Whether the answer states something that is not a right answer: neither right nor abstaining.

    On an unanswerable question, which has no right answers, whatever does not abstain is made up.
    ("It is 12 weeks.", []) -> True; ("I do not know.", []) -> False
    """
    return not abstains(answer) and not contains_answer(answer, right_answers)


def failure(is_right: bool, retrieves: bool, hit_documents: Collection[str], document: str) -> Failure:
    """Whether a wrong answer is the retriever's fault or the model's.

    (False, True, ["travel.md"], "leave.md") -> RETRIEVAL_MISS
    """
    if is_right:
        return Failure.NONE
    if not retrieves:
        return Failure.NOT_RETRIEVED
    return Failure.GENERATION_ERROR if document in hit_documents else Failure.RETRIEVAL_MISS
