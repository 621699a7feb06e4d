from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest

from cluster.errors import (
    ConfigError,
    Conflict,
    DataError,
    InvalidInput,
    NotFound,
    StoreUnavailable,
    Unavailable,
)
from retrieval.__main__ import restore as restore_command
from retrieval.backup import back_up, back_up_all, restore, restore_all
from retrieval.client import CollectionsClient
from retrieval.config import retrieval_config
from retrieval.documents import Content, Document, Section
from retrieval.edge_store import EdgeStore
from retrieval.exact_store import ExactStore
from retrieval.ingest import Ingestor
from retrieval.migrate import migrate
from retrieval.owner import InProcess
from retrieval.search import Mode, SearchRequest
from retrieval.service import Collections
from retrieval.store import Scored, VectorStore
from retrieval.vectorizer import HashEmbedder

OLD, NEW = HashEmbedder(64, name="old"), HashEmbedder(32, name="new")
CONFIG = retrieval_config(collection="c", chunk_tokens=20, chunk_overlap_tokens=0)


def document(id_: str, num_sentences: int = 30) -> Document:
    text = " ".join(f"Sentence {n} of {id_}." for n in range(num_sentences))
    return Document(id_, id_, id_, Content(text, (Section(0, len(text)),)), {"team": "hr", "open": True})


def open_on(store: VectorStore) -> CollectionsClient:
    return CollectionsClient(InProcess(Collections(store)))


def filled(store: VectorStore) -> CollectionsClient:
    collections = open_on(store)
    Ingestor(collections, OLD, CONFIG, "ann").add([document("a"), document("b")])
    Ingestor(collections, OLD, CONFIG, "bob").add([document("a")])
    return collections


def test_a_migrated_collection_answers_the_new_embedder_and_keeps_everything_else(tmp_path: Path) -> None:
    collections = filled(EdgeStore(tmp_path / "collections"))
    before = [collections.count("c", tenant) for tenant in ("ann", "bob")]
    told: list[int] = []
    assert migrate(collections, "c", NEW, told.append) == sum(before) == sum(told)
    assert [collections.count("c", tenant) for tenant in ("ann", "bob")] == before
    spec = collections.describe("c").spec
    assert (spec.name, spec.embedder, spec.dimension) == ("c", "new", 32)
    where = {"type": "eq", "key": "open", "value": True}
    query = NEW.embed_queries(["Sentence 7 of b"])[0]
    hit = collections.search("c", SearchRequest("Sentence 7 of b", query, filter=where), "ann").hits[0]
    assert "Sentence 7 of b." in hit.text
    assert [info.spec.name for info in collections.list_collections()] == ["c"]
    # Nothing is left to do, and files of the old collection are gone.
    assert migrate(collections, "c", NEW) == 0
    collections.close()
    assert len(list((tmp_path / "collections" / "c").glob("shard-*"))) == 1


class Tired(HashEmbedder):
    """Gives up after a number of calls, once."""

    calls = 0

    def embed_documents(self, texts: Sequence[str], truncate: bool = False) -> np.ndarray:
        Tired.calls += 1
        if Tired.calls == 2:
            raise RuntimeError("killed")
        return super().embed_documents(texts, truncate)


def test_an_interrupted_migration_goes_on_and_the_old_collection_serves_meanwhile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("retrieval.migrate.PAGE_CHUNKS", 5)
    collections = filled(ExactStore())
    tired = Tired(32, name="new")
    with pytest.raises(RuntimeError):
        migrate(collections, "c", tired)
    assert collections.describe("c").spec.embedder == "old"
    count = collections.count("c", "ann") + collections.count("c", "bob")
    assert migrate(collections, "c", tired) == count - 5
    assert collections.describe("c").spec.embedder == "new"


class Editor(HashEmbedder):
    """Deletes a document while it is being migrated, as a user may."""

    collections: CollectionsClient

    def embed_documents(self, texts: Sequence[str], truncate: bool = False) -> np.ndarray:
        self.collections.delete_documents("c", ["b"], "ann")
        return super().embed_documents(texts, truncate)


def test_a_document_deleted_meanwhile_does_not_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("retrieval.migrate.PAGE_CHUNKS", 5)
    collections = filled(ExactStore())
    editor = Editor(32, name="new")
    editor.collections = collections
    migrate(collections, "c", editor)
    assert [record.document_id for record in collections.documents("c", "ann")] == ["a"]
    assert [record.document_id for record in collections.documents("c", "bob")] == ["a"]
    assert collections.count("c", "ann") == collections.documents("c", "ann")[0].num_chunks


class WrittenWhileOptimized(ExactStore):
    """Gets another document while the search index of the new collection is built, which takes long."""

    def optimize(self, name: str) -> None:
        super().optimize(name)
        if name.endswith("-migrating"):
            Ingestor(open_on(self), OLD, CONFIG, "ann").add([document("late", 2)], optimize=False)


def test_what_is_written_while_the_new_index_is_built_is_not_lost() -> None:
    collections = filled(WrittenWhileOptimized())
    migrate(collections, "c", NEW)
    assert [record.document_id for record in collections.documents("c", "ann")] == ["a", "b", "late"]


class WrittenAtTheChangeOver(ExactStore):
    """Acknowledges changes after the last pass has gone by them."""

    def swap(self, name: str, replacement: str) -> None:
        ingestor = Ingestor(open_on(self), OLD, CONFIG, "ann")
        ingestor.add([document("late", 2), document("a", 3)], optimize=False)
        open_on(self).delete_documents("c", ["b"], "ann")
        super().swap(name, replacement)


def test_what_is_acknowledged_just_before_the_change_over_is_not_lost() -> None:
    collections = filled(WrittenAtTheChangeOver())
    migrate(collections, "c", NEW)
    records = {record.document_id: record.num_chunks for record in collections.documents("c", "ann")}
    assert records.keys() == {"a", "late"}
    assert collections.count("c", "ann") == sum(records.values())
    assert "of late" in collections.chunks("c", "late", "ann")[0].text
    assert [info.spec.name for info in collections.list_collections()] == ["c"]


class Stopped(ExactStore):
    """Ends a migration before its change-over, once."""

    is_new = True

    def optimize(self, name: str) -> None:
        if self.is_new and name.endswith("-migrating"):
            self.is_new = False
            raise KeyboardInterrupt


def test_a_document_cut_anew_after_an_interruption_has_its_new_chunks() -> None:
    collections = filled(Stopped())
    with pytest.raises(KeyboardInterrupt):
        migrate(collections, "c", NEW)
    collections.delete_documents("c", ["a"], "ann")
    finer = retrieval_config(collection="c", chunk_tokens=10, chunk_overlap_tokens=0)
    Ingestor(collections, OLD, finer, "ann").add([document("a")])
    chunks = [(hit.position, hit.text) for hit in collections.chunks("c", "a", "ann")]
    migrate(collections, "c", NEW)
    assert [(hit.position, hit.text) for hit in collections.chunks("c", "a", "ann")] == chunks


class MigratedWhileEmbedding(HashEmbedder):
    """Embeds while another process moves the collection to an embedder of as long vectors."""

    collections: CollectionsClient

    def embed_documents(self, texts: Sequence[str], truncate: bool = False) -> np.ndarray:
        migrate(self.collections, "c", HashEmbedder(64, name="tuned"))
        return super().embed_documents(texts, truncate)


def test_an_ingestion_that_a_migration_overtakes_writes_no_vector_of_the_old_embedder() -> None:
    collections = filled(ExactStore())
    overtaken = MigratedWhileEmbedding(64, name="old")
    overtaken.collections = collections
    with pytest.raises(Conflict, match="tuned"):
        Ingestor(collections, overtaken, CONFIG, "ann").add([document("late", 2)])
    assert [record.document_id for record in collections.documents("c", "ann")] == ["a", "b"]
    assert collections.chunks("c", "late", "ann") == []


def test_other_metadata_meet_a_migration_without_old_vectors(monkeypatch: pytest.MonkeyPatch) -> None:
    store = ExactStore()
    collections = filled(store)
    scroll = store.scroll

    def overtaken(*args: Any, **options: Any) -> list[Scored]:
        found = scroll(*args, **options)
        monkeypatch.setattr(store, "scroll", scroll)
        migrate(collections, "c", HashEmbedder(64, name="tuned"))
        return found

    monkeypatch.setattr(store, "scroll", overtaken)
    with pytest.raises(Conflict, match="tuned"):
        collections.set_metadata("c", "a", {"team": "it"}, "ann")
    assert {hit.metadata["team"] for hit in collections.chunks("c", "a", "ann")} == {"hr"}


def test_the_same_model_by_another_name_is_a_new_name_and_no_work() -> None:
    collections = filled(ExactStore())
    vectors = np.stack([chunk.vector for chunk in collections.page("c", 1000) if chunk.vector is not None])

    class Renamed(HashEmbedder):
        def embed_documents(self, texts: Sequence[str], truncate: bool = False) -> np.ndarray:
            raise AssertionError("nothing is to be embedded")

    renamed = Renamed(64)
    renamed.name = "elsewhere"
    renamed.fingerprint = OLD.fingerprint
    assert migrate(collections, "c", renamed) == 0
    assert collections.describe("c").spec.embedder == "elsewhere"
    kept = [chunk.vector for chunk in collections.page("c", 1000) if chunk.vector is not None]
    assert np.array_equal(vectors, np.stack(kept))


def test_a_backup_moves_a_collection_to_another_store(tmp_path: Path) -> None:
    embedded = filled(EdgeStore(tmp_path / "collections"))
    file = str(tmp_path / "c.parquet")
    count = back_up(embedded, "c", file)
    other = open_on(ExactStore())
    assert restore(other, file) == count
    for tenant in ("ann", "bob"):
        assert other.documents("c", tenant) == embedded.documents("c", tenant)
    request = SearchRequest("Sentence 7 of b", OLD.embed_queries(["Sentence 7 of b"])[0], mode=Mode.HYBRID)
    ours = [(hit.chunk_id, hit.metadata) for hit in other.search("c", request, "ann").hits]
    assert ours == [(hit.chunk_id, hit.metadata) for hit in embedded.search("c", request, "ann").hits]
    # What was restored is known to ingestion.
    assert Ingestor(other, OLD, CONFIG, "ann").add([document("a")]).num_unchanged == 1
    embedded.close()


def test_a_document_that_is_written_during_a_backup_is_written_anew_after_the_restore(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("retrieval.migrate.PAGE_CHUNKS", 3)
    collections = filled(ExactStore())
    page, file = collections.page, str(tmp_path / "c.parquet")
    changed = Document("a", "a", "a", document("other").content)
    pages: list[list[Scored]] = []

    def page_and_write(collection: str, limit: int, after: str | None = None) -> list[Scored]:
        pages.append(page(collection, limit, after))
        if len(pages) == 2:
            Ingestor(collections, OLD, CONFIG, "ann").add([changed])
        return pages[-1]

    monkeypatch.setattr(collections, "page", page_and_write)
    back_up(collections, "c", file)
    restored = open_on(ExactStore())
    restore(restored, file)
    report = Ingestor(restored, OLD, CONFIG, "ann").add([changed, document("b")])
    assert (report.num_updated, report.num_unchanged) == (1, 1)
    assert restored.chunks("c", "a", "ann") == collections.chunks("c", "a", "ann")
    assert Ingestor(restored, OLD, CONFIG, "bob").add([document("a")]).num_unchanged == 1


def test_a_backup_never_overwrites_and_a_wrong_file_is_refused(tmp_path: Path) -> None:
    collections = filled(ExactStore())
    file = tmp_path / "c.parquet"
    back_up(collections, "c", str(file))
    with pytest.raises(Conflict, match="exists already"):
        restore(collections, str(file))
    with pytest.raises(ConfigError, match="collection"):
        restore(collections, str(file), "../copy")
    restore(collections, str(file), "copy")
    assert collections.count("copy", "ann") == collections.count("c", "ann")
    file.write_text("not parquet")
    with pytest.raises(DataError, match="not a backup"):
        restore(collections, str(file), "other")
    with pytest.raises(NotFound):
        restore(collections, str(tmp_path / "missing"), "other")
    assert not list(tmp_path.glob("*.part"))


def test_a_store_of_backups_that_does_not_answer_is_unavailable(store_away: str) -> None:
    collections = filled(ExactStore())
    for verb in (
        lambda: back_up(collections, "c", f"{store_away}/c.parquet"),
        lambda: restore(collections, f"{store_away}/c.parquet", "other"),
        lambda: back_up_all(collections, store_away),
        lambda: restore_all(collections, store_away),
    ):
        with pytest.raises(Unavailable, match="no answer"):
            verb()


def test_a_backup_that_breaks_off_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    collections = filled(ExactStore())
    monkeypatch.setattr(collections, "page", Mock(side_effect=StoreUnavailable("the store is away")))
    with pytest.raises(StoreUnavailable):
        back_up(collections, "c", str(tmp_path / "c.parquet"))
    assert not list(tmp_path.iterdir())


def test_a_backup_is_a_file_in_a_folder_that_exists(tmp_path: Path) -> None:
    collections = filled(ExactStore())
    for folder in (f"{tmp_path}", f"{tmp_path}/"):
        with pytest.raises(InvalidInput, match=r"c\.parquet"):
            back_up(collections, "c", folder)
    with pytest.raises(Unavailable, match="nowhere"):
        back_up(collections, "c", str(tmp_path / "nowhere" / "c"))
    assert not list(tmp_path.rglob("*"))
    with pytest.raises(NotFound):
        restore(collections, str(tmp_path), "other")


def test_a_folder_that_is_pruned_holds_what_is_there_now_and_nothing_else_is_touched(tmp_path: Path) -> None:
    collections = filled(ExactStore())
    for name in ("gone", "kept"):
        back_up(collections, "c", str(tmp_path / "c.parquet"))
        restore(collections, str(tmp_path / "c.parquet"), name)
    (tmp_path / "rows.parquet").write_text("no backup of ours")
    assert list(back_up_all(collections, str(tmp_path))) == ["c", "gone", "kept"]
    collections.drop("gone")
    back_up_all(collections, str(tmp_path))
    assert (tmp_path / "gone.parquet").exists()
    assert list(back_up_all(collections, str(tmp_path), prune=True)) == ["c", "kept"]
    assert {file.name for file in tmp_path.iterdir()} == {"c.parquet", "kept.parquet", "rows.parquet"}


def test_a_collection_dropped_while_all_are_backed_up_is_left_out(tmp_path: Path) -> None:
    collections = filled(ExactStore())
    collections.collection_names = lambda: ["c", "dropped"]  # type: ignore[method-assign]
    assert list(back_up_all(collections, str(tmp_path))) == ["c"]


def test_a_folder_without_backups_is_said_to_have_none(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "typo"):
        with pytest.raises(NotFound, match="no backups"):
            restore_all(filled(ExactStore()), str(folder))


def test_one_name_for_all_collections_is_refused() -> None:
    with pytest.raises(InvalidInput, match="--all"):
        restore_command("backups", collection="c", whole=True)


def test_a_backup_with_a_changed_byte_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    collections = filled(ExactStore())
    file = tmp_path / "c.parquet"
    back_up(collections, "c", str(file))
    changed = bytearray(file.read_bytes())
    changed[len(changed) // 4] ^= 1
    file.write_bytes(changed)
    with pytest.raises(DataError, match=r"damaged .*; restore another copy"):
        restore(collections, str(file), "copy")
    assert [info.spec.name for info in collections.list_collections()] == ["c"]


def test_a_restore_that_was_cut_off_at_its_end_is_simply_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    back_up_all(filled(ExactStore()), str(tmp_path))
    store = ExactStore()
    collections = open_on(store)
    with monkeypatch.context() as patched:
        patched.setattr(store, "swap", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            restore_all(collections, str(tmp_path))
    restore_all(collections, str(tmp_path))
    assert collections.count("c", "ann") > 0
