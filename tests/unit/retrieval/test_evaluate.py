from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from cluster.errors import DataError, NotFound
from retrieval.beir import read_beir
from retrieval.console import print_evaluation
from retrieval.evaluate import (
    COLLECTION,
    METRICS,
    Estimate,
    difference,
    estimate,
    evaluate,
    indexed,
    per_question,
    plot,
    searches,
)
from retrieval.vectorizer import HashEmbedder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    corpus = [
        {"_id": "leave", "title": "Leave", "text": "Paid leave is 27 days."},
        {"_id": "code", "title": "", "text": "Moving house is code MV-83."},
        {"_id": "title-only", "title": "Canteen", "text": ""},
    ]
    queries = [
        {"_id": "q1", "text": "days of paid leave"},
        {"_id": "q2", "text": "canteen"},
        {"_id": "unjudged", "text": "nothing"},
    ]
    (tmp_path / "corpus.jsonl").write_text("\n".join(map(json.dumps, corpus)))
    (tmp_path / "queries.jsonl").write_text("\n".join(map(json.dumps, queries)))
    (tmp_path / "qrels").mkdir()
    (tmp_path / "qrels" / "test.tsv").write_text(
        "query-id\tcorpus-id\tscore\nq1\tleave\t1\nq1\tcode\t0\nq2\ttitle-only\t1\n"
    )
    return tmp_path


def test_the_worked_line_of_each_metric() -> None:
    relevant = {"q": {"a": 1, "b": 1, "c": 0}, "unanswered": {"a": 1}}
    values = per_question(relevant, {"q": ["x", "a", "c", "b"]})
    # Relevant at ranks 2 and 4 of two.
    assert values["recall_at_5"].tolist() == [1.0, 0.0]
    assert values["precision_at_5"].tolist() == pytest.approx([2 / 5, 0.0])
    assert values["mrr_at_10"].tolist() == [1 / 2, 0.0]
    ideal = 1 + 1 / math.log2(3)
    assert values["ndcg_at_10"][0] == pytest.approx((1 / math.log2(3) + 1 / math.log2(5)) / ideal)


def test_an_interval_holds_the_mean_and_narrows_with_more_questions() -> None:
    rng = np.random.default_rng(1)
    few, many = (estimate(rng.random(count)) for count in (20, 2000))
    for found in (few, many):
        assert found.low < found.mean < found.high
    assert many.high - many.low < (few.high - few.low) / 3


def test_a_difference_is_paired() -> None:
    values = np.random.default_rng(1).random(100)
    found = difference(values, values + 0.1)
    assert (found.low, found.high) == (pytest.approx(0.1), pytest.approx(0.1))


def test_a_beir_folder_is_searched_in_every_way(folder: Path, tmp_path: Path) -> None:
    judged = read_beir(folder)
    assert set(judged.questions) == {"q1", "q2"}
    embedder = HashEmbedder()
    met: list[str] = []
    with indexed(judged, embedder, met.append) as collections:
        ways = searches(collections, COLLECTION, embedder)
        assert list(ways) == ["dense", "bm25", "hybrid"]
        results = {stage: evaluate(judged, way) for stage, way in ways.items()}
    assert sorted(met) == ["code", "leave", "title-only"]
    assert results["bm25"]["mrr_at_10"].mean == 1.0
    plot(results, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


class CountedEmbedder(HashEmbedder):
    num_questions = 0

    def embed_queries(self, texts: Sequence[str], truncate: bool = False) -> np.ndarray:
        self.num_questions += len(texts)
        return super().embed_queries(texts, truncate)


def test_a_question_is_embedded_once_for_all_ways(folder: Path) -> None:
    judged, embedder = read_beir(folder), CountedEmbedder()
    with indexed(judged, embedder) as collections:
        for way in searches(collections, COLLECTION, embedder).values():
            evaluate(judged, way)
    assert embedder.num_questions == len(judged.questions)


def test_a_document_without_a_word_is_left_out(folder: Path) -> None:
    with (folder / "corpus.jsonl").open("a") as file:
        file.write('\n{"_id": "empty", "title": " ", "text": ""}\n')
    judged = read_beir(folder)
    assert [document.id for document in judged.documents] == ["leave", "code", "title-only"]


@pytest.mark.parametrize("name", ["corpus", "queries"])
@pytest.mark.parametrize(
    ("line", "words"),
    [('{"id": "x", "text": "y"}', "no '_id'"), ('{"_id": "x"}', "no 'text'"), ("[1]", "got list")],
)
def test_a_line_that_is_no_record_is_named(folder: Path, name: str, line: str, words: str) -> None:
    with (folder / f"{name}.jsonl").open("a") as file:
        file.write(f"\n{line}\n")
    with pytest.raises(DataError, match=rf"{name}\.jsonl line 4.*{words}"):
        read_beir(folder)


def test_a_bad_folder_says_what_is_wrong_and_where(folder: Path) -> None:
    (folder / "queries.jsonl").write_text('{"_id": "q1", "text": "x"}\n')
    with pytest.raises(DataError, match="'q2'"):
        read_beir(folder)
    (folder / "queries.jsonl").write_text('{"_id": "q1", "text": "x"}\n{"_id"')
    with pytest.raises(DataError, match=r"queries\.jsonl line 2"):
        read_beir(folder)
    (folder / "qrels" / "test.tsv").write_text("h\th\tscore\nq1\tleave\n")
    (folder / "queries.jsonl").write_text('{"_id": "q1", "text": "x"}\n')
    with pytest.raises(DataError, match=r"test\.tsv line 2"):
        read_beir(folder)
    with pytest.raises(NotFound, match="dev"):
        read_beir(folder, "dev")


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("qrels/test.tsv", b"query-id\tcorpus-id\tscore\n", "judges no question"),
        ("corpus.jsonl", b"", "no document with a text"),
        ("queries.jsonl", b'{"_id": "q1", "text": "caf\xe9"}\n', "line 1 is not UTF-8"),
        ("qrels/test.tsv", b"q1\tleave\t1\nq1\tcaf\xe9\t1\n", "line 2 is not UTF-8"),
    ],
)
def test_a_folder_that_measures_nothing_or_is_not_utf_8_is_refused(
    folder: Path, file: str, content: bytes, words: str
) -> None:
    (folder / file).write_bytes(content)
    with pytest.raises(DataError, match=words):
        read_beir(folder)


def test_every_metric_is_shown_with_its_whole_name(capsys: pytest.CaptureFixture[str]) -> None:
    print_evaluation(
        {way: dict.fromkeys(METRICS, Estimate(0.5, 0.4, 0.6)) for way in ("dense", "bm25", "hybrid")}, 2, 3
    )
    shown = capsys.readouterr().out
    assert all(name in shown for name in METRICS)
    assert shown.count("0.500 [0.40, 0.60]") == 15
