from __future__ import annotations

import errno
import io
import os
import threading
import zipfile
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from cluster.errors import DataError, NotFound, StoreUnavailable, Unavailable
from retrieval.client import CollectionsClient
from retrieval.config import retrieval_config
from retrieval.console import print_collections, print_documents, print_report
from retrieval.documents import Content, Document, MetadataValue, Section
from retrieval.exact_store import ExactStore
from retrieval.ingest import Ingestor
from retrieval.owner import InProcess
from retrieval.points import point_id
from retrieval.readers import read_document
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


@pytest.mark.parametrize(
    "changed", [{"chunk_tokens": 30}, {"chunk_overlap_tokens": 10}, {"context_tokens": 0}]
)
def test_a_document_that_is_to_be_cut_otherwise_is_written_again(
    client: CollectionsClient, changed: dict[str, int]
) -> None:
    first, copy = document("a", LONG), replace(document("b", LONG), title="a")
    ingestor(client).add([first])
    config = CONFIG.model_copy(update=changed)
    report = Ingestor(client, HashEmbedder(), config).add([first, copy])
    assert (report.num_updated, [skipped.uri for skipped in report.skipped]) == (1, ["b"])
    fresh = CollectionsClient(InProcess(Collections(ExactStore())))
    Ingestor(fresh, HashEmbedder(), config).add([first])
    assert client.chunks("c", "a") == fresh.chunks("c", "a")
    assert Ingestor(client, HashEmbedder(), config).add([first]).num_unchanged == 1


class Together(HashEmbedder):
    """Embeds when two ask, so that neither has written anything before."""

    def __init__(self) -> None:
        super().__init__()
        self._both = threading.Barrier(2, timeout=10)

    def embed_documents(self, texts: Sequence[str], truncate: bool = False) -> np.ndarray:
        self._both.wait()
        return super().embed_documents(texts, truncate)


def test_a_document_that_is_ingested_twice_at_once_is_there_once(client: CollectionsClient) -> None:
    embedder = Together()
    ingestors = [ingestor(client, embedder), ingestor(client, embedder)]
    with ThreadPoolExecutor(2) as threads:
        reports = list(threads.map(lambda each: each.add([document("a", LONG)]), ingestors))
    assert [report.num_added for report in reports] == [1, 1]
    assert client.count("c") == client.documents("c")[0].num_chunks == reports[0].num_chunks
    texts = [hit.text for hit in client.search("c", SearchRequest("sentence", mode=Mode.BM25, top_k=50)).hits]
    assert len(texts) == len(set(texts)) == client.count("c")


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


def test_copies_of_a_file_without_a_title_are_copies_by_whatever_names(
    client: CollectionsClient, tmp_path: Path
) -> None:
    for name in ("a.txt", "b.txt", "deep/a.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("The same words.")
    report = ingestor(client).add_paths([str(tmp_path)])
    assert [skipped.reason for skipped in report.skipped] == [f"same content as {tmp_path / 'a.txt'}"] * 2
    # A title of its own is a part of what is in it.
    pages = [f"<html><title>{title}</title><body><p>Text.</p></body></html>" for title in ("One", "Two")]
    for page, name in zip(pages, ("one.html", "two.html"), strict=True):
        (tmp_path / name).write_text(page)
    assert ingestor(client).add_paths([str(tmp_path)]).num_added == 2


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


@pytest.mark.parametrize(
    ("now", "added", "updated", "removed"),
    [
        ({"a": "One.", "b": "Two.", "c": "Three."}, 0, 0, 0),
        ({"a": "Two.", "b": "One.", "c": "Three."}, 0, 2, 0),
        ({"a": "Two.", "b": "Three.", "c": "One."}, 0, 3, 0),
        ({"b": "One.", "c": "Two.", "d": "Three."}, 1, 2, 1),
        ({"0": "One.", "a": "Two.", "b": "Three."}, 1, 2, 1),
    ],
    ids=["same", "swap", "cycle", "chain up", "chain down"],
)
def test_files_that_take_each_others_names_are_all_indexed_under_their_own(
    client: CollectionsClient, tmp_path: Path, now: dict[str, str], added: int, updated: int, removed: int
) -> None:
    before = {"a": "One.", "b": "Two.", "c": "Three."}
    for texts in (before, now):
        for file in tmp_path.iterdir():
            file.unlink()
        for name, text in texts.items():
            (tmp_path / name).with_suffix(".md").write_text(f"# Rules\n\n{text}\n")
        report = ingestor(client).add_paths([str(tmp_path)])
    assert (report.num_added, report.num_updated, report.num_removed) == (added, updated, removed)
    assert report.skipped == []
    assert {Path(id_).stem: client.chunks("c", id_)[0].text for id_ in ids(client)} == {
        name: f"# Rules\n\n{text}" for name, text in now.items()
    }


def test_a_copy_of_a_document_that_comes_later_and_keeps_its_content_is_left_out(
    client: CollectionsClient,
) -> None:
    same = [replace(document(id_, "Same."), title="t") for id_ in "ab"]
    ingestor(client).add([same[1]])
    report = ingestor(client).add(same)
    assert [(skipped.uri, skipped.reason) for skipped in report.skipped] == [("a", "same content as b")]
    assert (ids(client), report.num_unchanged) == (["b"], 1)


class Killed(ExactStore):
    """Stops after a number of points, as a process does that is killed."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.left = after

    def upsert(self, name: str, points: Sequence[Point], fingerprint: str) -> None:
        for point in points:
            if not self.left:
                raise StoreUnavailable("killed")
            self.left -= 1
            super().upsert(name, [point], fingerprint)


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


@pytest.mark.parametrize("after", [1, 5])
@pytest.mark.parametrize("now", [None, "", "# Rules\n\nFor all."], ids=["deleted", "unreadable", "a copy"])
def test_nothing_stays_of_a_new_file_whose_first_ingestion_broke_off_when_it_goes(
    tmp_path: Path, after: int, now: str | None
) -> None:
    store = Killed(-1)
    client = CollectionsClient(InProcess(Collections(store)))
    for name, text in (("rules.md", "# Rules\n\nFor all."), ("z.md", f"# Rules\n\n{LONG}")):
        (tmp_path / name).write_text(text)
        store.left = after if name == "z.md" else -1
        with pytest.raises(StoreUnavailable) if name == "z.md" else nullcontext():
            ingestor(client).add_paths([str(tmp_path)])
    store.left = -1
    gone = str(tmp_path / "z.md")
    assert gone not in ids(client)
    assert (client.document_ids("c"), client.count("c")) == ([str(tmp_path / "rules.md"), gone], after + 1)
    if now is None:
        (tmp_path / "z.md").unlink()
    else:
        (tmp_path / "z.md").write_text(now)
    report = ingestor(client).add_paths([str(tmp_path)])
    assert (report.num_unchanged, report.num_added) == (1, 0)
    assert (client.document_ids("c"), client.count("c")) == (ids(client), 1)


class Down(HashEmbedder):
    """Takes a number of texts, then no more."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.left = after

    def embed_documents(self, texts: Sequence[str], truncate: bool = False) -> np.ndarray:
        self.left -= len(texts)
        if self.left < 0:
            raise Unavailable("the embedder is down")
        return super().embed_documents(texts, truncate)


@pytest.mark.parametrize("after", [0, 1, 2])
def test_a_document_that_gets_shorter_stays_whole_until_there_are_new_vectors(
    client: CollectionsClient, after: int
) -> None:
    ingestor(client).add([document("a", LONG)])
    num_chunks = client.count("c")
    with pytest.raises(Unavailable):
        Ingestor(client, Down(after), CONFIG, window_chunks=1).add([document("a", LONG[:200])])
    assert client.count("c") == num_chunks == client.documents("c")[0].num_chunks
    assert ingestor(client).add([document("a", LONG[:200])]).num_updated == 1
    assert client.count("c") == client.documents("c")[0].num_chunks < num_chunks


@pytest.mark.parametrize("after", [0, 1, 2, 4])
def test_a_document_that_was_changed_back_after_a_broken_update_is_whole_again(after: int) -> None:
    store = Killed(-1)
    client = CollectionsClient(InProcess(Collections(store)))
    old, new = LONG, LONG[:400].replace("Sentence", "Line")
    ingestor(client).add([document("a", old)])
    store.left = after
    with pytest.raises(StoreUnavailable):
        ingestor(client).add([document("a", new)])
    store.left = -1
    # It is known meanwhile, opening and all, so that it is removed if its file goes.
    assert [record.document_id for record in client.documents("c")] == ["a"]
    assert client.search("c", SearchRequest("Sentence number 0", mode=Mode.BM25)).hits[0].position == 0
    report = ingestor(client).add([document("a", old)])
    assert report.num_updated == (1 if after else 0)
    chunks = client.chunks("c", "a")
    assert len(chunks) == client.documents("c")[0].num_chunks
    assert all(old[chunk.start : chunk.end] == chunk.text for chunk in chunks)
    assert ingestor(client).add([document("a", old)]).num_unchanged == 1


def test_a_document_whose_metadata_were_changed_in_part_is_written_anew() -> None:
    store = Killed(-1)
    client = CollectionsClient(InProcess(Collections(store)))
    ingestor(client).add([document("a", LONG)])
    store.left = 3
    with pytest.raises(StoreUnavailable):
        client.set_metadata("c", "a", {"team": "hr"})
    store.left = -1
    assert ingestor(client).add([document("a", LONG)]).num_updated == 1
    assert not any(chunk.metadata for chunk in client.chunks("c", "a"))


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


def test_a_row_of_a_table_of_many_chunks_is_found_by_its_caption(client: CollectionsClient) -> None:
    rows = "\n".join(f"| Q{1 + n % 4} {2010 + n // 4} | {n * 17 + 3} |" for n in range(60))
    text = f"# Report\n\nRevenue 2010-2024\n\n| quarter | euros |\n|---|---|\n{rows}\n"
    files = {"report.md": text, "rules.md": "# Rules\n\nRevenue is counted by the quarter, in euros."}
    report = Ingestor(client, HashEmbedder(), CONFIG.model_copy(update={"chunk_tokens": 40})).add(
        [read_document(content.encode(), name, name) for name, content in files.items()]
    )
    assert report.num_chunks > 10
    question = "What was the revenue of Q3 2024 in euros?"
    vector = HashEmbedder().embed_queries([question])[0]
    hits = client.search("c", SearchRequest(question, vector, top_k=3)).hits
    assert any("| Q3 2024 | 989 |" in hit.text for hit in hits)


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
    assert [(Path(skipped.uri).name, skipped.reason[:17]) for skipped in report.skipped] == [
        ("empty.txt", "the file is empty"),
        ("photo.png", "no reader for .pn"),
    ]
    (folder / "a.md").unlink()
    (folder / "deep" / "b.txt").write_text("Beta, changed.")
    report = ingestor(client).add_paths([str(folder)])
    assert (report.num_added, report.num_updated, report.num_removed) == (0, 1, 1)
    names = [Path(record.document_id).name for record in client.documents("c")]
    assert sorted(names) == ["b.txt", "elsewhere"]


def ids(client: CollectionsClient) -> list[str]:
    return [record.document_id for record in client.documents("c")]


def test_the_working_directory_removes_nothing_that_came_from_elsewhere(
    client: CollectionsClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, other = tmp_path / "here", tmp_path / "other"
    for file in (here / "docs" / "a.md", here / "b.md", other / "c.md"):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"# {file.stem}\n\nText.")
    monkeypatch.chdir(here)
    far = "s3://bucket/d.md"
    ingestor(client).add([document(far, "From a bucket.")])
    ingestor(client).add_paths(["docs", "b.md", str(other)])
    assert ids(client) == sorted([str(other / "c.md"), "b.md", "docs/a.md", far])
    (here / "docs" / "a.md").unlink()
    assert ingestor(client).add_paths(["."]).num_removed == 1
    assert ids(client) == sorted([str(other / "c.md"), "b.md", far])
    # By another name it is the same folder: nothing is indexed twice, and what vanished is removed.
    (here / "b.md").unlink()
    report = ingestor(client).add_paths([".."])
    assert (report.num_added, report.num_unchanged, report.num_removed) == (0, 1, 1)
    assert ids(client) == sorted([str(other / "c.md"), far])


def test_a_relative_folder_is_the_same_folder_from_wherever_it_is_named(
    client: CollectionsClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As the job of a cluster does: each version of a working directory is unpacked at a place of its own.
    for place, names in (("one", "ab"), ("two", "b")):
        for name in names:
            file = tmp_path / place / "docs" / f"{name}.md"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(f"# {name}\n\nText.")
        monkeypatch.chdir(tmp_path / place)
        report = ingestor(client).add_paths(["docs"])
    assert (report.num_unchanged, report.num_removed) == (1, 1)
    assert ids(client) == ["docs/b.md"]


def test_a_link_is_named_by_where_it_lies_and_leaves_the_index_with_its_file(
    client: CollectionsClient, tmp_path: Path
) -> None:
    folder, secret = tmp_path / "docs", tmp_path / "secret.md"
    folder.mkdir()
    secret.write_text("Leads here.")
    (folder / "a.md").write_text("Alpha.")
    (folder / "link.md").symlink_to(secret)
    (tmp_path / "alias").symlink_to(folder)
    ingestor(client).add_paths([str(tmp_path / "alias")])
    linked = str(folder / "link.md")
    assert ids(client) == [str(folder / "a.md"), linked]
    assert ingestor(client).add_paths([linked]).num_unchanged == 1
    (folder / "link.md").unlink()
    assert ingestor(client).add_paths([str(folder)]).num_removed == 1
    assert ids(client) == [str(folder / "a.md")]


def test_a_root_by_an_alias_of_its_uri_is_mirrored_too(client: CollectionsClient) -> None:
    memory = fsspec.filesystem("memory")
    for name in "ab":
        memory.pipe(f"/aliased/{name}.md", f"# {name}".encode())
    try:
        ingestor(client).add_paths(["memory://aliased"])
        assert ids(client) == ["memory:///aliased/a.md", "memory:///aliased/b.md"]
        memory.rm("/aliased/b.md")
        assert ingestor(client).add_paths(["memory://aliased"]).num_removed == 1
        assert ids(client) == ["memory:///aliased/a.md"]
    finally:
        memory.rm("/aliased", recursive=True)


def test_a_damaged_file_and_a_name_that_is_not_utf_8_do_not_keep_out_the_rest(
    client: CollectionsClient, tmp_path: Path
) -> None:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as parts:
        parts.writestr("word/document.xml", "<w:document")
    (tmp_path / "a.docx").write_bytes(archive.getvalue())
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.md")).write_text("Beta.")
    (tmp_path / "z.md").write_text("Zeta.")
    report = ingestor(client).add_paths([str(tmp_path)])
    assert ids(client) == [str(tmp_path / "z.md")]
    assert [(Path(skipped.uri).name, skipped.reason.split(": ")[0]) for skipped in report.skipped] == [
        ("a.docx", "the Word file is damaged"),
        (r"caf\udce9.md", "its name is not UTF-8; rename it"),
    ]


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


def test_a_store_that_goes_away_while_files_are_read_takes_nothing_from_the_index(
    client: CollectionsClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = "memory://going-away"
    for name in ("a", "b"):
        fsspec.filesystem("memory").pipe_file(f"{root}/{name}.txt", f"Text of {name}.".encode())
    ingestor(client).add_paths([root])

    def fail(self: object, path: str, **_: object) -> bytes:
        raise OSError("no answer")

    monkeypatch.setattr(MemoryFileSystem, "cat_file", fail)
    with pytest.raises(Unavailable, match="no answer"):
        ingestor(client).add_paths([root])
    assert len(client.documents("c")) == 2


def test_a_file_is_read_by_its_name_whatever_is_in_it(client: CollectionsClient, tmp_path: Path) -> None:
    (tmp_path / "std::vector.md").write_text("A vector grows.")
    assert ingestor(client).add_paths([str(tmp_path)]).num_added == 1


def test_what_is_no_file_is_skipped_and_never_waited_for(client: CollectionsClient, tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("Alpha.")
    (tmp_path / "folder").mkdir()
    (tmp_path / "shown").symlink_to(tmp_path / "folder")
    (tmp_path / "dangling.md").symlink_to(tmp_path / "nothing.md")
    os.mkfifo(tmp_path / "pipe.txt")
    report = ingestor(client).add_paths([str(tmp_path)])
    assert ids(client) == [str(tmp_path / "a.md")]
    assert [Path(skipped.uri).name for skipped in report.skipped] == ["dangling.md", "pipe.txt", "shown"]
    assert all(skipped.reason.startswith("it is no file, but a pipe") for skipped in report.skipped)


def test_a_folder_that_cannot_be_listed_is_told(
    client: CollectionsClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a.md", "closed/b.md", ".git/c.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"# {name}")
    assert ingestor(client).add_paths([str(tmp_path)]).num_added == 2
    scandir = os.scandir

    def refusing(path: str) -> Any:
        if str(path) == str(tmp_path / "closed"):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)  # tests may run as root, whom nothing is closed to
    report = ingestor(client).add_paths([str(tmp_path)])
    assert [(Path(skipped.uri).name, report.num_removed) for skipped in report.skipped] == [("closed", 1)]
    assert "cannot be listed" in report.skipped[0].reason
    with pytest.raises(Unavailable, match=r"cannot list .*Permission denied"):
        ingestor(client).add_paths([str(tmp_path / "closed")])


def test_a_report_names_each_file_once_and_each_reason_once(
    client: CollectionsClient, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(b"\x89PNG")
    (tmp_path / "empty.md").write_bytes(b"")
    print_report("c", ingestor(client).add_paths([str(tmp_path)]))
    shown = capsys.readouterr().out
    assert shown.count("no reader for .png") == 1
    assert "skipped, the file is empty:\n" in shown
    assert [shown.count(name) for name in ("a.png", "b.png", "empty.md")] == [1, 1, 1]


def test_ids_of_documents_are_listed_whole_however_long(
    client: CollectionsClient, capsys: pytest.CaptureFixture[str]
) -> None:
    name = f"docs/[old]/{'a-long-folder/' * 12}travel.md"
    ingestor(client).add([replace(document(name, LONG), title="Travel [draft]")])
    print_documents(client.documents("c"))
    [line] = capsys.readouterr().out.splitlines()
    assert f"  {name}  Travel [draft]" in line
    print_collections(client.list_collections())
    assert capsys.readouterr().out.startswith("c  ")
    print_collections([])
    assert "no collection yet" in capsys.readouterr().out


@pytest.mark.parametrize(("metadata", "words"), [({"a b": 1}, "'a b'"), ({"year": "new"}, "is a string")])
def test_metadata_that_cannot_be_stored_is_refused_before_anything_is_embedded_or_removed(
    client: CollectionsClient, metadata: dict[str, MetadataValue], words: str
) -> None:
    before = replace(document("a", LONG), metadata={"year": 2026})
    ingestor(client).add([before])
    with pytest.raises(DataError, match=words):
        ingestor(client, Refusing()).add([replace(before, metadata=metadata)])
    assert ingestor(client).add([before]).num_unchanged == 1


class Slow(HashEmbedder):
    """Embeds nothing until `goes_on` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.goes_on = threading.Event()

    def embed_documents(self, texts: Sequence[str], truncate: bool = False) -> np.ndarray:
        assert self.goes_on.wait(10)
        return super().embed_documents(texts, truncate)


def test_documents_are_read_and_cut_while_others_are_embedded(client: CollectionsClient) -> None:
    embedder = Slow()

    def documents() -> Iterator[Document]:
        yield document("a", "One chunk.")
        embedder.goes_on.set()  # asked for the next, while `a` waits for its vectors
        yield document("b", "Another.")

    report = Ingestor(client, embedder, CONFIG, window_chunks=1).add(documents())
    assert report.num_added == 2
    assert client.count("c") == report.num_chunks


class Counted(InProcess):
    """Counts how often each verb is called."""

    def __init__(self) -> None:
        super().__init__(Collections(ExactStore()))
        self.calls: Counter[str] = Counter()

    def call(self, verb: str, *args: Any, **kwargs: Any) -> Any:
        self.calls[verb] += 1
        return super().call(verb, *args, **kwargs)


def test_many_small_documents_are_written_in_few_calls() -> None:
    counted = Counted()
    documents = [document(f"{n}", f"Document {n}.") for n in range(100)]
    assert ingestor(CollectionsClient(counted)).add(documents).num_added == 100
    assert counted.calls.total() < 10


def test_what_was_embedded_before_a_source_failed_is_kept(client: CollectionsClient) -> None:
    def documents() -> Iterator[Document]:
        yield document("a", LONG)
        yield document("b", f"{LONG} more")
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        Ingestor(client, HashEmbedder(), CONFIG, window_chunks=1).add(documents())
    assert ingestor(client).add([document("a", LONG)]).num_unchanged == 1


class Refusing(HashEmbedder):
    """Is never asked."""

    def embed_documents(self, texts: Sequence[str], truncate: bool = False) -> np.ndarray:
        raise AssertionError
