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


def test_a_short_question_of_a_script_without_spaces_has_words_enough() -> None:
    passage = Passage("canteen.md", "食堂", "食堂在12:30开门。")
    assert len(sift([pair("几点开门？", "12:30", passage)], [passage]).kept) == 1
    assert sift([pair("几点？", "12:30", passage)], [passage]).dropped == {Fault.LENGTH: 1}


@pytest.mark.parametrize(
    ("text", "gapped"),
    [
        (
            "Er heißt Max. Mittag ist um 12:30 Uhr. Es endet am 19. April. Das gilt z. B. in Ulm. Frau Dr. Weber.",
            [
                "Er heißt ____.",
                "Mittag ist um ____.",
                "Es endet am ____. April.",
                "Das gilt z. B. in ____.",
            ],
        ),
        (
            "Marie Dubois le dirige. Il coûte 4,70 €. Où ? À Lyon. C'est Paul. Le code : AB-12 !",
            ["Marie ____ le dirige.", "Il coûte ____ €.", "Le code : ____ !"],
        ),
        (
            "Офис открыт с 9:30. Им руководит Мария Иванова. Это Москва.",
            ["Офис открыт с ____.", "Им руководит ____."],
        ),
        (
            "每名员工有27天休假。食堂在12:30开门！“费用为4.70元。”他说。地址是北京。",
            ["每名员工有____天休假。", "食堂在____开门！", "“费用为____元。”他说。"],
        ),
        (
            "食堂は12時に開きます。コードはAB-12です。事務所は田中さんが管理します。",
            ["食堂は____時に開きます。", "コードは____です。"],
        ),
    ],
    ids=["German", "French", "Russian", "Chinese", "Japanese"],
)
def test_gaps_are_made_and_kept_whatever_the_language(text: str, gapped: list[str]) -> None:
    passage = Passage("page.md", "", text)
    kept = sift(gap_pairs(passage), [passage]).kept
    assert [pair.question for pair in kept] == [f'Which words are missing: "{gap}"?' for gap in gapped]


@pytest.mark.parametrize("text", ["Ask Bob.", "The MV-83.", "Frau Dr. Weber.", "À Lyon."])
def test_a_gap_that_could_be_anything_is_not_asked_for(text: str) -> None:
    assert list(gap_pairs(Passage("page.md", "", text))) == []


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


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("It lapses on\n9. May. Ask us.", ["It lapses on 9. May.", "Ask us."]),
        ("Ends am 19. April. Danach nicht.", ["Ends am 19. April.", "Danach nicht."]),
        ("It is in room 310. Knock.", ["It is in room 310.", "Knock."]),
        ("See e.g. J. Smith. He knows.", ["See e.g. J. Smith.", "He knows."]),
        ("1. Open it.\n2. Close it.", ["1.", "Open it.", "2.", "Close it."]),
        ("是。「好。」她说。走吧！", ["是。", "「好。」她说。", "走吧！"]),
    ],
)
def test_a_sentence_ends_where_it_does_and_not_at_a_date_or_an_abbreviation(
    text: str, found: list[str]
) -> None:
    assert sentences(text) == found
