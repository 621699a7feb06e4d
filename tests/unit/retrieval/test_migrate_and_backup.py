from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from cluster.errors import Conflict, DataError, NotFound, Unavailable
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
from retrieval.store import VectorStore
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
    assert migrate(collections, "c", NEW) == sum(before)
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


def test_a_backup_never_overwrites_and_a_wrong_file_is_refused(tmp_path: Path) -> None:
    collections = filled(ExactStore())
    file = tmp_path / "c.parquet"
    back_up(collections, "c", str(file))
    with pytest.raises(Conflict, match="exists already"):
        restore(collections, str(file))
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
