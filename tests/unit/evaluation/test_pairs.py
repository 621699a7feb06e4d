"""Which made pairs are kept, each check by a case of its own, and how pairs are read and made by rule."""

from __future__ import annotations

import pytest

from evaluation.pairs import Fault, Pair, Passage, gap_pairs, read_pairs, sentences, sift

LEAVE = Passage(
    "leave.md",
    "Leave > Days left over",
    "## Days left over\n\nHow much is left? Every employee has 27 days of paid leave.\n"
    "Leave of the previous year lapses on\n19 April, and what is the rest is lost.",
)


def pair(question: str, answer: str, passage: Passage = LEAVE) -> Pair:
    return Pair(passage, question, answer)


@pytest.mark.parametrize(
    ("question", "answer", "fault"),
    [
        ("How much paid leave has every employee?", "27 days", None),
        ("When is the previous year of leave left?", "on 19 April", None),
        ("Every employee has 27 days.", "27 days", Fault.NO_QUESTION),
        ("How much?", "27 days", Fault.LENGTH),
        ("How much paid leave has every employee?", "", Fault.LENGTH),
        ("How much paid leave has every employee?", "The.", Fault.LENGTH),
        ("How much paid leave, how much leave " * 9 + "?", "27 days", Fault.LENGTH),
        ("How much paid leave has every employee?", "28 days", Fault.NOT_IN_PASSAGE),
        ("How much paid leave has every employee?", "7 days", Fault.NOT_IN_PASSAGE),
        ("What is left of the previous year?", "Days left over", Fault.IN_TITLE),
        ("Has every employee 27 days of leave?", "27 days", Fault.IN_QUESTION),
        ("How much leave is in the passage?", "27 days", Fault.POINTING),
        ("Wie viele Urlaubstage stehen allen zu?", "27 days", Fault.LANGUAGE),
    ],
)
def test_a_pair_is_kept_only_without_fault(question: str, answer: str, fault: Fault | None) -> None:
    sifted = sift([pair(question, answer)], [LEAVE])
    assert sifted.dropped == ({fault: 1} if fault else {})
    assert len(sifted.kept) == (fault is None)


def test_a_question_is_kept_once_and_never_when_it_is_a_test_question() -> None:
    first = pair("How much paid leave has every employee?", "27 days")
    again = pair("how much  paid leave, has every employee?", "27")
    tested = pair("When is the leave of the year left?", "19 April")
    sifted = sift([first, again, tested], [LEAVE], ["When is leave of a year left"])
    assert sifted.kept == (first,)
    assert sifted.dropped == {Fault.TEST: 1, Fault.DUPLICATE: 1}
    assert sifted.num_made == 3


def test_the_checks_hold_in_a_script_without_spaces() -> None:
    passage = Passage("leave.md", "休假", "每名員工每年有二十七天帶薪休假。")
    good = pair("每名員工每年有幾天帶薪休假？", "二十七天", passage)
    foreign = pair("How many days of paid leave are there?", "二十七天", passage)
    sifted = sift([good, foreign], [passage])
    assert sifted.kept == (good,)
    assert sifted.dropped == {Fault.LANGUAGE: 1}


def test_pairs_are_read_from_labelled_lines_however_they_are_marked() -> None:
    reply = (
        "Sure! Here they are:\n1. **Question:** How much leave?\n   **Answer:** 27 days\n"
        'Q2: When does it lapse?\nA2: "19 April"\nAnswer: nobody asked\nQuestion: Cut off?'
    )
    found = [(pair.question, pair.answer) for pair in read_pairs(reply, LEAVE)]
    assert found == [("How much leave?", "27 days"), ("When does it lapse?", "19 April")]


def test_a_gap_is_made_where_a_sentence_holds_a_name_or_a_number() -> None:
    found = {pair.question: pair.answer for pair in gap_pairs(LEAVE)}
    assert found == {
        'Which words are missing: "Every employee has ____ days of paid leave."?': (
            "Every employee has 27 days of paid leave."
        ),
        'Which words are missing: "Leave of the previous year lapses on ____, and what is the rest is lost."?': (
            "Leave of the previous year lapses on 19 April, and what is the rest is lost."
        ),
    }
    assert len(sift(gap_pairs(LEAVE), [LEAVE]).kept) == 2, "what the rule makes passes every check"


def test_sentences_are_whole_and_those_of_table_cells_stand_alone() -> None:
    text = "## Eating\n\nLunch is at\nnoon. Bring a cup\n\n| Bar | Coffee is free. |\n|---|---|\n- The bar closes."
    assert sentences(text) == ["Lunch is at noon.", "Coffee is free.", "The bar closes."]
