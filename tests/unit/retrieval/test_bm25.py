from __future__ import annotations

import pytest

from retrieval.bm25 import weigh_document, weigh_query


@pytest.mark.parametrize(
    ("question", "name"),
    [
        ("lru cache", "functools.lru_cache(maxsize=128)"),
        ("thread pool executor", "class ThreadPoolExecutor(Executor)"),
        ("ThreadPoolExecutor", "class ThreadPoolExecutor(Executor)"),
        ("http server", "http.server.HTTPServer"),
        ("last index", "lastIndexOf(text)"),
        ("utf8 reader", "Utf8Reader"),
    ],
)
def test_a_name_of_code_is_found_whole_and_by_its_words(question: str, name: str) -> None:
    assert set(weigh_query(question).indices) <= set(weigh_document(name).indices)


def test_prose_counts_its_own_words_and_no_stop_words() -> None:
    assert len(weigh_document("The NATO summit of 2024 began in Washington on a Tuesday.").indices) == 6
    assert weigh_query("of the and").indices == ()


@pytest.mark.parametrize(
    "text",
    ["\ufb01nance o\ufb03ce", "fi\u00adnance of\u00adfice", "Ｆｉｎａｎｃｅ ｏｆｆｉｃｅ"],
    ids=["ligatures", "hyphens", "wide"],
)
def test_words_that_look_alike_are_found_however_they_are_encoded(text: str) -> None:
    assert weigh_document(text).indices == weigh_document("finance office").indices
    assert set(weigh_query("cafe\u0301").indices) == set(weigh_query("caf\u00e9").indices)
