from __future__ import annotations

import pytest

from serving.citations import Citation, cite
from serving.responses import annotation
from serving.scripted_parts import scripted_passage as passage

PASSAGES = [
    passage(1, "The canteen opens at noon."),
    passage(2, "Every employee has 27 days of paid leave."),
    passage(3, "Travel is booked with Bluefin."),
]


def test_written_markers_become_citations_with_their_offsets() -> None:
    answer = "You get 27 days [2], booked early [3]."
    assert cite(answer, PASSAGES) == [Citation(2, 16, 19), Citation(3, 34, 37)]


@pytest.mark.parametrize("marker", ["[1, 3]", "[1,3]"])
def test_a_marker_of_several_passages_cites_each_of_them(marker: str) -> None:
    answer = f"The canteen and the travel {marker}, and {{[2, 9]}}."
    end = 27 + len(marker)
    assert cite(answer, PASSAGES)[:2] == [Citation(1, 27, end), Citation(3, 27, end)]
    assert [citation.number for citation in cite(answer, PASSAGES)] == [1, 3, 2]


def test_a_marker_of_no_passage_is_not_cited() -> None:
    assert [citation.number for citation in cite("See [0], [2] and [4].", PASSAGES)] == [2]


def test_without_markers_the_passage_that_holds_the_answers_words_is_cited() -> None:
    answer = "You have 27 days."
    assert cite(answer, PASSAGES, "How many days of leave?") == [Citation(2, 0, len(answer))]


def test_words_of_the_question_do_not_decide() -> None:
    hits = [passage(1, "Leave is good for rest."), passage(2, "Leave is 27 days.")]
    assert [citation.number for citation in cite("Leave: 27.", hits, "How long is leave?")] == [2]


def test_an_answer_that_no_passage_supports_cites_nothing() -> None:
    assert cite("The moon is made of cheese and 99 mice.", PASSAGES, "What?") == []
    assert cite("", PASSAGES) == []
    assert cite("27 days", []) == []


def test_an_annotation_resolves_to_the_cited_text_and_document() -> None:
    answer = "You get 27 days [2]."
    (citation,) = cite(answer, PASSAGES)
    body = annotation(citation, answer, PASSAGES)
    assert body["type"] == "file_citation"
    assert answer[body["start_index"] : body["end_index"]] == body["text"] == "[2]"
    assert body["file_citation"]["file_id"] == "doc-2"
