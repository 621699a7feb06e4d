from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cluster.errors import InvalidInput, NotFound
from retrieval import __main__ as commands
from retrieval.__main__ import _embedder_by_name, _key_value, backup, delete, explain, search
from retrieval.client import CollectionsClient
from retrieval.config import retrieval_config
from retrieval.documents import Content, Document, Section
from retrieval.exact_store import ExactStore
from retrieval.ingest import Ingestor
from retrieval.owner import InProcess
from retrieval.points import remade_point
from retrieval.search import Mode
from retrieval.service import Collections
from retrieval.vectorizer import HashEmbedder

TEXT = "Paid leave is 27 days."


class CountedEmbedder(HashEmbedder):
    """Counts how often a model was loaded."""

    num_loaded = 0

    def __init__(self, reference: str) -> None:
        super().__init__(name=reference)
        type(self).num_loaded += 1


@pytest.fixture(autouse=True)
def loads(monkeypatch: pytest.MonkeyPatch) -> type[CountedEmbedder]:
    """Collections `a` and `b` of one embedder, opened by every command."""
    collections = CollectionsClient(InProcess(Collections(ExactStore())))
    for name in ("a", "b"):
        content = Content(TEXT, (Section(0, len(TEXT)),))
        config = retrieval_config(collection=name)
        embedder = HashEmbedder(name="counted")
        Ingestor(collections, embedder, config).add(
            [Document("leave.md", "Leave", "leave.md", content, {"year": 2026, "team": "hr"})]
        )
    monkeypatch.setattr("retrieval.__main__.open_collections", lambda: nullcontext(collections))
    monkeypatch.setattr("retrieval.embedding.Embedder", CountedEmbedder)
    monkeypatch.setattr(CountedEmbedder, "num_loaded", 0)
    _embedder_by_name.cache_clear()
    return CountedEmbedder


def test_collections_of_one_embedder_are_searched_by_one(
    loads: type[CountedEmbedder], capsys: pytest.CaptureFixture[str]
) -> None:
    search("paid leave", ["a", "b"])
    assert capsys.readouterr().out.count("leave.md [0:22]") == 2
    assert loads.num_loaded == 1


def test_a_search_by_words_alone_loads_no_embedder(
    loads: type[CountedEmbedder], capsys: pytest.CaptureFixture[str]
) -> None:
    search("paid leave", ["a"], mode=Mode.BM25)
    assert "leave.md [0:22]" in capsys.readouterr().out
    assert loads.num_loaded == 0


def test_a_search_is_narrowed_to_documents_with_some_metadata(capsys: pytest.CaptureFixture[str]) -> None:
    search("paid leave", ["a"], mode=Mode.BM25, metadata=["year=2026", "team=hr"])
    assert "leave.md [0:22]" in capsys.readouterr().out
    search("paid leave", ["a"], mode=Mode.BM25, metadata=["year=2025"])
    assert "no hits" in capsys.readouterr().out
    with pytest.raises(InvalidInput, match="known keys: team, year"):
        search("paid leave", ["a"], mode=Mode.BM25, metadata=["yaer=2026"])


class LongestFirst:
    """In place of a model that reads question and passage together."""

    def __init__(self, reference: str) -> None:
        self.name = reference

    def score(self, question: str, texts: Sequence[str]) -> np.ndarray:
        return np.asarray([len(text) for text in texts], dtype=np.float32)


def test_hits_are_reranked_before_the_first_are_taken(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("retrieval.rerank.CrossEncoder", LongestFirst)
    with commands.open_collections() as collections:
        for name in ("other", "longer"):
            text = f"{TEXT} {name} " * (2 if name == "longer" else 1) + "Nothing else."
            content = Content(text, (Section(0, len(text)),))
            config = retrieval_config(collection="a")
            Ingestor(collections, HashEmbedder(name="counted"), config).add(
                [Document(f"{name}.md", name, f"{name}.md", content)]
            )
    search("Paid leave is 27 days.", ["a"], top_k=1)
    assert "leave.md" in capsys.readouterr().out
    search("Paid leave is 27 days.", ["a"], top_k=1, reranker="longest")
    shown = capsys.readouterr().out
    assert "longer.md" in shown
    assert "leave.md" not in shown
    assert "rerank" in shown
    explain("Paid leave is 27 days.", "leave.md", "a", reranker="longest")
    assert "rerank rank 3" in capsys.readouterr().out


def test_a_search_may_ask_for_hits_unlike_each_other(capsys: pytest.CaptureFixture[str]) -> None:
    search("paid leave", ["a"], diversity=0.5)
    assert "diversify" in capsys.readouterr().out
    with pytest.raises(InvalidInput, match="diversity is 2"):
        search("paid leave", ["a"], diversity=2)


def test_a_document_that_is_not_there_is_said_to_be_none_and_where_they_are_listed(
    loads: type[CountedEmbedder],
) -> None:
    remedy = r"no document 'laeve\.md' in 'a'; python -m retrieval list a"
    with pytest.raises(NotFound, match=remedy):
        explain("paid leave", "laeve.md", "a")
    assert loads.num_loaded == 0


def test_brackets_in_a_path_are_shown_as_they_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "[old]" / "[" / "]" / "a.parquet"
    target.parent.mkdir(parents=True)
    backup(str(target), "a")
    assert f"are in {target}" in capsys.readouterr().out


def test_what_a_killed_ingestion_left_of_a_document_can_be_deleted(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with commands.open_collections() as collections:
        embedder = HashEmbedder(name="counted")
        text = f"{TEXT} " * 10
        document = Document("long.md", "Long", "long.md", Content(text, (Section(0, len(text)),)))
        config = retrieval_config(collection="whole", chunk_tokens=20, chunk_overlap_tokens=0)
        Ingestor(collections, embedder, config).add([document])
        # Position 0 is written last of a document.
        rest = [chunk for chunk in collections.page("whole", 100) if chunk.payload["position"]]
        collections.ensure(replace(collections.describe("whole").spec, name="killed"))
        points = [remade_point(chunk, chunk.vector) for chunk in rest if chunk.vector is not None]
        collections.upsert("killed", points, embedder.fingerprint)
        delete("killed", ["long.md"])
        assert f"1 documents with {len(points)} chunks are gone" in capsys.readouterr().out
        assert collections.count("killed") == 0


def test_nothing_is_deleted_where_one_of_the_ids_is_unknown(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(NotFound, match=r"no document 'laeve\.md' in 'a'"):
        delete("a", ["leave.md", "laeve.md"])
    assert "gone" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("given", "value"),
    [
        ("2024", 2024),
        ("-4.5", -4.5),
        ("true", True),
        ("01067", "01067"),
        ("1_000", "1_000"),
        ("٣", "٣"),
        ("v1.2", "v1.2"),
    ],
)
def test_metadata_are_numbers_where_they_are_written_as_such(given: str, value: object) -> None:
    assert _key_value(f"key={given}") == ("key", value)
