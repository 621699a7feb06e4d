from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from cluster.errors import DataError, NotFound, StoreUnavailable, Unavailable
from retrieval.client import CollectionsClient
from retrieval.config import retrieval_config
from retrieval.documents import Content, Document, Section
from retrieval.exact_store import ExactStore
from retrieval.ingest import Ingestor
from retrieval.owner import InProcess
from retrieval.points import point_id
from retrieval.search import Mode, SearchRequest
from retrieval.service import Collections
from retrieval.store import Point
from retrieval.vectorizer import HashEmbedder

CONFIG = retrieval_config(collection="c", chunk_tokens=20, chunk_overlap_tokens=0)
LONG = " ".join(f"Sentence number {n}." for n in range(40))


@pytest.fixture
def client() -> CollectionsClient:
    return CollectionsClient(InProcess(Collections(ExactStore())))


def document(id_: str, text: str) -> Document:
    return Document(id_, id_, id_, Content(text, (Section(0, len(text)),)))


def ingestor(client: CollectionsClient, embedder: HashEmbedder | None = None) -> Ingestor:
    return Ingestor(client, embedder or HashEmbedder(), CONFIG)


def test_the_same_document_again_changes_nothing(client: CollectionsClient) -> None:
    first = ingestor(client).add([document("a", LONG)])
    count = client.count("c")
    again = ingestor(client).add([document("a", LONG)])
    assert first.num_chunks == count > 3
    assert (again.num_unchanged, again.num_chunks) == (1, 0)
    assert client.count("c") == count


def test_a_shorter_version_leaves_no_chunk_of_the_longer_one(client: CollectionsClient) -> None:
    ingestor(client).add([document("a", LONG)])
    report = ingestor(client).add([document("a", "Short now.")])
    assert report.num_updated == 1
    assert client.count("c") == 1
    assert client.documents("c")[0].num_chunks == 1


def test_free_form_ids_come_back_unchanged_and_never_share_a_point(client: CollectionsClient) -> None:
    ids = [
        "doc-7",
        "a/b.txt_1",
        "Ä",
        "A\u0308",
        "-1",
        str(2**64),
        "0" * 32,
        point_id("default", "x", 0),
        "*",
        "a b",
    ]
    ingestor(client).add([document(id_, f"Text of {n}.") for n, id_ in enumerate(ids)])
    assert [record.document_id for record in client.documents("c")] == sorted(ids)
    assert client.count("c") == len(ids)
    for id_ in ids:
        assert client.delete_documents("c", [id_]) == 1
    assert client.count("c") == 0


def test_point_ids_depend_on_tenant_document_and_position_apart() -> None:
    assert point_id("t", "a", 1) == point_id("t", "a", 1)
    assert (
        len({point_id("t", "a", 1), point_id("ta", "", 1), point_id("t", "a", 11), point_id("a", "t", 1)})
        == 4
    )


def test_equal_content_under_another_id_is_reported_and_left_out(client: CollectionsClient) -> None:
    first, second = document("a", "Same."), Document("b", "a", "b", Content("Same.", (Section(0, 5),)))
    report = ingestor(client).add([first, second])
    assert report.num_added == 1
    assert [(skipped.uri, skipped.reason) for skipped in report.skipped] == [("b", "same content as a")]


def test_a_document_that_becomes_a_copy_leaves_nothing_of_what_it_was(client: CollectionsClient) -> None:
    ingestor(client).add([document("a", "Same."), document("b", LONG)])
    report = ingestor(client).add([Document("b", "a", "b", Content("Same.", (Section(0, 5),)))])
    assert [skipped.uri for skipped in report.skipped] == ["b"]
    assert [record.document_id for record in client.documents("c")] == ["a"]


def test_content_that_its_owner_gave_up_is_indexed_under_the_next(client: CollectionsClient) -> None:
    ingestor(client).add([document("a", "One.")])
    one = Document("b", "a", "b", Content("One.", (Section(0, 4),)))
    report = ingestor(client).add([document("a", "Two."), one])
    assert not report.skipped
    assert [record.document_id for record in client.documents("c")] == ["a", "b"]


def test_a_file_that_moved_is_indexed_where_it_is_now(client: CollectionsClient, tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "a.md").write_text("# Leave\n\n27 days.\n")
    ingestor(client).add_paths([str(tmp_path)])
    (tmp_path / "a.md").rename(tmp_path / "old" / "a.md")
    report = ingestor(client).add_paths([str(tmp_path)])
    assert (report.num_added, report.num_removed, report.skipped) == (1, 1, [])
    (record,) = client.documents("c")
    assert record.document_id.endswith("old/a.md")


class Killed(ExactStore):
    """Stops after a number of points, as a process does that is killed."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.left = after

    def upsert(self, name: str, points: Sequence[Point]) -> None:
        for point in points:
            if not self.left:
                raise StoreUnavailable("killed")
            self.left -= 1
            super().upsert(name, [point])


@pytest.mark.parametrize("after", [1, 5, 12, 13])
def test_an_interrupted_document_does_not_count_as_indexed_and_is_finished_later(after: int) -> None:
    store = Killed(after)
    client = CollectionsClient(InProcess(Collections(store)))
    with pytest.raises(StoreUnavailable):
        ingestor(client).add([document("a", LONG), document("b", LONG + " More.")])
    store.left = -1
    indexed = {record.document_id for record in client.documents("c")}
    report = ingestor(client).add([document("a", LONG), document("b", LONG + " More.")])
    assert report.num_unchanged == len(indexed)
    assert {record.document_id for record in client.documents("c")} == {"a", "b"}
    assert client.count("c") == sum(record.num_chunks for record in client.documents("c"))


class Broken(HashEmbedder):
    """Yields zeros for one text."""

    def embed_documents(self, texts: Sequence[str], truncate: bool = False) -> np.ndarray:
        vectors = super().embed_documents(texts, truncate)
        vectors[["number 7." in text for text in texts]] = 0.0
        return vectors


def test_a_chunk_without_a_vector_is_refused_by_name(client: CollectionsClient) -> None:
    with pytest.raises(DataError, match=r"chunk \d+ of document 'a'"):
        ingestor(client, Broken()).add([document("a", LONG)])
    assert client.documents("c") == []


def test_a_sentence_past_the_embedders_limit_is_found(client: CollectionsClient) -> None:
    text = LONG * 3 + " The last word is xylophone."
    ingestor(client).add([document("a", text)])
    hits = client.search("c", SearchRequest("xylophone", mode=Mode.BM25)).hits
    assert hits[0].text.endswith("xylophone.")


def test_a_folder_is_mirrored(client: CollectionsClient, tmp_path: Path) -> None:
    folder = tmp_path / "docs"
    (folder / "deep").mkdir(parents=True)
    (folder / "a.md").write_text("# A\n\nAlpha.")
    (folder / "deep" / "b.txt").write_text("Beta.")
    (folder / "empty.txt").write_text("")
    (folder / "photo.png").write_bytes(b"\x89PNG")
    (folder / ".hidden").write_text("Hidden.")
    ingestor(client).add([document("elsewhere", "Not from the folder.")])
    report = ingestor(client).add_paths([str(folder)])
    assert (report.num_added, report.num_removed) == (2, 0)
    assert [(Path(skipped.uri).name, skipped.reason.split(": ")[1][:17]) for skipped in report.skipped] == [
        ("empty.txt", "the file is empty"),
        ("photo.png", "no reader for .pn"),
    ]
    (folder / "a.md").unlink()
    (folder / "deep" / "b.txt").write_text("Beta, changed.")
    report = ingestor(client).add_paths([str(folder)])
    assert (report.num_added, report.num_updated, report.num_removed) == (0, 1, 1)
    names = [Path(record.document_id).name for record in client.documents("c")]
    assert sorted(names) == ["b.txt", "elsewhere"]


def test_a_file_that_became_unreadable_leaves_the_index(client: CollectionsClient, tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text("Alpha.")
    ingestor(client).add_paths([str(file)])
    file.write_text("")
    report = ingestor(client).add_paths([str(file)])
    assert report.num_removed == 1
    assert client.count("c") == 0


def test_a_path_without_files_is_not_found(client: CollectionsClient, tmp_path: Path) -> None:
    (tmp_path / "nothing").mkdir()
    for path in ("nothing", "missing"):
        with pytest.raises(NotFound, match="no file at"):
            ingestor(client).add_paths([str(tmp_path / path)])


def test_a_store_of_documents_that_does_not_answer_is_unavailable(
    client: CollectionsClient, store_away: str
) -> None:
    with pytest.raises(Unavailable, match="no answer"):
        ingestor(client).add_paths([f"{store_away}/docs"])
