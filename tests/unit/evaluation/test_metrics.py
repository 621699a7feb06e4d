from __future__ import annotations

from pathlib import Path

import pytest

from evaluation.config import load_config
from evaluation.metrics import (
    Failure,
    abstains,
    citation_precision,
    citation_recall,
    cohens_kappa,
    contains_answer,
    exact_match,
    fabricates,
    failure,
    folded,
    has_form,
    normalise,
    number_within,
    numbers,
    token_f1,
    words,
)

EXAMPLE = Path(__file__).parents[3] / "examples" / "compare-handbook.yaml"


def test_normalising_drops_case_punctuation_articles_and_spaces() -> None:
    assert normalise("The Canteen, a  hall: –4.5") == "canteen hall -4.5"
    assert normalise("“How many days？”") == normalise("how many days")
    assert normalise("vitamin A") == "vitamin a", "no article"


def test_folding_leaves_one_spelling() -> None:
    assert folded("1,234.5 –\u00a0“Straße”, 20 percent") == '1234.5 - "strasse", 20%'
    assert folded("4,70 €") == "4.70€"


def test_words_of_scripts_that_do_not_part_them_are_characters() -> None:
    assert words("The MV-83, 請假") == ["mv83", "請", "假"]
    assert token_f1("年假是二十七天", ["二十七天"]) == pytest.approx(8 / 11)


def test_exact_match_is_that_of_squad() -> None:
    assert exact_match("The 27 days.", ["27 days"]) == 1.0
    assert exact_match("27 days a year", ["27 days"]) == 0.0


def test_other_numbers_and_other_letters_are_no_exact_match() -> None:
    assert exact_match("45", ["4.5"]) == 0.0
    assert exact_match("5", ["-5"]) == 0.0
    assert exact_match("", ["A"]) == 0.0
    assert token_f1("A.", ["A"]) == exact_match("A.", ["A"]) == 1.0


def test_token_f1_is_that_of_squad() -> None:
    assert token_f1("27 days of leave", ["27 days"]) == pytest.approx(2 / 3)
    assert token_f1("Holm", ["27 days"]) == 0.0


def test_token_f1_takes_the_best_right_answer_and_counts_a_repeated_word_once() -> None:
    assert token_f1("Holm", ["Birgitte Holm", "Holm"]) == 1.0
    assert token_f1("27 27", ["27"]) == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("answer", "right", "is_contained"),
    [
        ("You get 27 days.", "27", True),
        ("You get 127 days.", "27", False),
        ("ask BIRGITTE HOLM", "Birgitte Holm", True),
        ("It costs 4.70 euros (C++).", "C++", True),
        ("Room K12b", "K12", False),
        ("年假是二十七天。", "二十七天", True),
        ("年假是127天。", "27天", False),
        ("年假是27天。", "27天", True),
        ("서울입니다.", "서울", True),
        ("You get 27.5 days.", "27", False),
        ("You get 1.27 days.", "27", False),
        ("At 10:30.", "10", False),
        ("It is -5 degrees.", "5", False),
        ("-5", "5", False),
        ("It is −5 degrees.", "-5", True),
        ("From 4-5 people on.", "5", True),
        ("1,234 euros", "234", False),
        ("1200 euros", "1,200 euros", True),
        ("1\u202f200 euros", "1,200 euros", True),
        ("4,70 euros", "4.70 euros", True),
        ("20 % of it", "20%", True),
        ("20 percent of it", "20 %", True),
        ("It is 20 °C", "20°C", True),
        ("5 € each", "5€", True),
        ("27\u00a0days", "27 days", True),
        ("27\ndays", "27 days", True),
        ("9:00–17:00", "9:00-17:00", True),
        ("the cafe\u0301 in the STRASSE’s end", "CAFÉ in the Straße's end", True),
    ],
)
def test_an_answer_is_contained_as_whole_words_and_numbers_in_any_spelling(
    answer: str, right: str, is_contained: bool
) -> None:
    assert contains_answer(answer, [right]) is is_contained


def test_numbers_are_read_with_separators_of_thousands_and_signs() -> None:
    assert numbers("1,234.5 euros, -3, 4,70") == [1234.5, -3.0, 4.7]
    assert numbers("20kg, 27天, 4-5 people, version 3.11.2") == [20.0, 27.0, 4.0, 5.0]
    assert numbers("room K12 at 10:15") == [10.0, 15.0]


def test_a_number_is_right_within_the_tolerance_and_not_beyond() -> None:
    assert number_within("about 19.8 kg", ["20 kg"], 0.02)
    assert number_within("19.6", ["20 kg"], 0.02)
    assert not number_within("19.5", ["20 kg"], 0.02)
    assert not number_within("10", ["10:15 to 14:45"], 0.02), "several numbers are not one number"


def test_citations_are_held_against_the_document_of_the_question() -> None:
    assert citation_precision(["leave.md", "travel.md"], "leave.md") == 0.5
    assert citation_precision([], "leave.md") is None
    assert citation_recall(["leave.md", "travel.md"], "leave.md") == 1.0
    assert citation_recall([], "leave.md") == 0.0


@pytest.mark.parametrize(
    "answer",
    [
        "The handbook does not say.",
        "I don't know.",
        "I don’t have information on that.",
        "This is not mentioned in the passages.",
        "I cannot answer this question.",
        "There is no information about parental leave.",
        "There’s no mention of it.",
        "I'm sorry, but I cannot find this.",
        "Sorry, I do not have enough information.",
        "We are not sure.",
        "The passages do not explicitly cover parental leave.",
        "It cannot be found in the given documents.",
        "The information on parental leave is not provided.",
        "It is not possible to determine this.",
        "The length is unknown.",
        "Unable to answer from the context.",
        "No answer.",
        " ",
    ],
)
def test_saying_that_there_is_no_answer_is_abstaining(answer: str) -> None:
    assert abstains(answer)
    assert not fabricates(answer, [])


@pytest.mark.parametrize(
    "answer",
    [
        "It is 12 weeks.",
        "It is not before 9:00.",
        "Nobody may enter.",
        "Travel is not refunded.",
        "Lunch is not provided.",
        "The room is not available on Sundays.",
        "The insurance does not cover travel.",
        "It does not include weekends.",
        "If you are not sure, ask HR.",
        "You cannot find parking there.",
        "Employees are unable to provide their own laptops.",
        "Mail from unknown senders goes to IT.",
        "No information is shared with third parties.",
    ],
)
def test_a_statement_is_not_abstaining(answer: str) -> None:
    assert not abstains(answer)
    assert fabricates(answer, [])


def test_a_right_answer_is_no_fabrication() -> None:
    assert not fabricates("It is 27 days.", ["27 days"])


def test_a_retrieval_miss_is_told_from_a_generation_error() -> None:
    assert failure(False, True, ["travel.md"], "leave.md") is Failure.RETRIEVAL_MISS
    assert failure(False, True, ["leave.md"], "leave.md") is Failure.GENERATION_ERROR
    assert failure(False, False, [], "leave.md") is Failure.NOT_RETRIEVED
    assert failure(True, True, ["travel.md"], "leave.md") is Failure.NONE


def test_the_form_is_that_of_the_whole_answer() -> None:
    assert has_form("It is 27.", "[^.]+[.]")
    assert not has_form("It is 27. Ask HR.", "[^.]+[.]")
    assert has_form(" It is 27.\n", "[^.]+[.]"), "space around it is not the answer's"


def test_the_examples_form_is_one_whole_sentence() -> None:
    form = load_config(EXAMPLE, []).form
    assert form is not None
    assert has_form("The measuring room is kept at 20.6 degrees Celsius.", form.pattern)
    for other in ("It is 27. Ask HR.", "It is 27", "A list:\n1. one.", ""):
        assert not has_form(other, form.pattern), other


def test_kappa_is_agreement_beyond_chance() -> None:
    # Both say yes 20 times and no 15 times; one alone says yes 5 times, the other alone 10 times.
    one = [True] * 20 + [False] * 15 + [True] * 5 + [False] * 10
    other = [True] * 20 + [False] * 15 + [False] * 5 + [True] * 10
    assert cohens_kappa(one, other) == pytest.approx(0.4)
    assert cohens_kappa([True, False], [True, False]) == 1.0
    assert cohens_kappa([True, False], [False, True]) == -1.0
    assert cohens_kappa([True, True], [True, True]) == 1.0
