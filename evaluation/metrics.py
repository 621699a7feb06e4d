"""Measures of an answer that need no judge. Each states its definition, its source and a worked line."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Collection, Sequence
from enum import StrEnum

# Characters of scripts without spaces between words (Thai, Lao, Japanese, Chinese), as a regular expression's set.
UNSPACED = r"\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff"

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
# 1,234.5 is one number; the comma is read as a separator of thousands only where three digits follow.
_NUMBER = re.compile(r"(?<![\w.])[-−]?\d+(?:,\d{3})*(?:\.\d+)?(?![\w]|\.\d)")

# How models say that they have no answer. Whole phrases: a bare "not" also stands in right answers.
_ABSTENTION = re.compile(
    r"\b(?:"
    r"(?:do|does|did) ?n[o'’]t (?:know|have (?:any |that |this |the |enough )?(?:information|details?|data)"
    r"|say|state|mention|specify|contain|provide|include|cover)"
    r"|(?:do|does|did) not (?:know|have (?:any |that |this |the |enough )?(?:information|details?|data)"
    r"|say|state|mention|specify|contain|provide|include|cover)"
    r"|(?:is|are|was|were)(?: not|n['’]t) (?:stated|mentioned|specified|provided|given|available|covered|known"
    r"|in the (?:handbook|documents?|passages?|context|text))"
    r"|(?:can ?not|can['’]t|could not|couldn['’]t|(?:am|are|is|was) (?:not able|unable) to)"
    r" (?:answer|find|say|tell|determine|provide)"
    r"|no (?:information|mention|answer)\b|not (?:sure|enough information)|unknown|unanswerable"
    r")",
    re.IGNORECASE,
)


class Failure(StrEnum):
    """Where an answer went wrong."""

    NONE = "none"
    RETRIEVAL_MISS = "retrieval miss"  # the document was not among the hits
    GENERATION_ERROR = "generation error"  # it was, and the answer is wrong all the same
    NOT_RETRIEVED = "no retrieval"  # the cell does not retrieve


def normalise(text: str) -> str:
    """Lower case, without punctuation, articles and superfluous spaces.

    Source: SQuAD, Rajpurkar et al. 2016, evaluation script.
    "The Canteen, a  hall." -> "canteen hall"
    """
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(answer: str, right_answers: Collection[str]) -> float:
    """1 if the normalised answer equals one of the normalised right answers, else 0.

    Source: SQuAD, Rajpurkar et al. 2016, section 6.1.
    ("The 27 days.", ["27 days"]) -> 1.0; ("27 days a year", ["27 days"]) -> 0.0
    """
    return float(normalise(answer) in {normalise(right) for right in right_answers})


def token_f1(answer: str, right_answers: Collection[str]) -> float:
    """Harmonic mean of precision and recall over the bags of words; the best over all right answers.

    Source: SQuAD, Rajpurkar et al. 2016, section 6.1.
    ("27 days of leave", ["27 days"]): precision 2/4, recall 2/2 -> 2/3
    """
    return max(
        (_f1(normalise(answer).split(), normalise(right).split()) for right in right_answers), default=0.0
    )


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


def _f1(words: Sequence[str], right: Sequence[str]) -> float:
    common = sum((Counter(words) & Counter(right)).values())
    if not common:
        return 0.0
    precision, recall = common / len(words), common / len(right)
    return 2 * precision * recall / (precision + recall)


def contains_answer(answer: str, right_answers: Collection[str]) -> bool:
    """Whether a right answer stands in the answer as whole words, in upper or lower case.

    The measure of open-domain question answering (Chen et al. 2017, DrQA, matches by the same rule); it
    fits models that answer in sentences. Scripts that do not part words have no border to ask for.
    ("You get 27 days.", ["27"]) -> True; ("You get 127 days.", ["27"]) -> False
    ("年假是二十七天", ["二十七天"]) -> True
    """
    return any(
        re.search(
            f"{_border(right[:1], '<')}{re.escape(right)}{_border(right[-1:], '')}", answer, re.IGNORECASE
        )
        is not None
        for right in right_answers
    )


def _border(edge: str, side: str) -> str:
    return "" if re.match(f"[{UNSPACED}]", edge) else rf"(?{side}!\w)"


def numbers(text: str) -> list[float]:
    """Numbers in a text. "1,234.5 euros, -3" -> [1234.5, -3.0]"""
    return [float(found.replace(",", "").replace("−", "-")) for found in _NUMBER.findall(text)]


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
    ("The handbook does not say.") -> True; ("It is not before 9:00.") -> False
    """
    return not answer.strip() or _ABSTENTION.search(answer) is not None


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
