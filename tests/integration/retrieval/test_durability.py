"""What the embedded engine acknowledged survives the death of its process, and its folder has one owner."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cluster.errors import Conflict, HamletError
from retrieval.client import CollectionsClient
from retrieval.config import retrieval_config
from retrieval.documents import Content, Document, Section
from retrieval.edge_store import EdgeStore
from retrieval.filters import And, FieldType, Filter, Op, equals, matches, parse_filter
from retrieval.ingest import Ingestor
from retrieval.owner import InProcess
from retrieval.search import Mode, SearchRequest
from retrieval.service import Collections
from retrieval.store import CollectionSpec, Point, SparseVector
from retrieval.vectorizer import HashEmbedder

# Writes documents for ever and says after each that it was acknowledged.
WRITER = """
import sys
from pathlib import Path
from retrieval.client import CollectionsClient
from retrieval.config import retrieval_config
from retrieval.documents import Content, Document, Section
from retrieval.edge_store import EdgeStore
from retrieval.ingest import Ingestor
from retrieval.owner import InProcess
from retrieval.service import Collections
from retrieval.vectorizer import HashEmbedder

client = CollectionsClient(InProcess(Collections(EdgeStore(Path(sys.argv[1])))))
config = retrieval_config(collection="c", chunk_tokens=20, chunk_overlap_tokens=0)
ingestor = Ingestor(client, HashEmbedder(), config)
for number in range(10**6):
    text = " ".join(f"Sentence {n} of document {number}." for n in range(100))
    ingestor.add([Document(str(number), "t", "u", Content(text, (Section(0, len(text)),)))])
    print(number, flush=True)
"""


@contextmanager
def writer(root: Path) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(root)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_a_killed_process_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    root = tmp_path / "collections"
    acknowledged = -1
    for _ in range(3):
        with writer(root) as process:
            assert process.stdout is not None
            for _ in range(15):
                line = process.stdout.readline()
                assert line, process.stderr.read() if process.stderr else ""
                acknowledged = max(acknowledged, int(line))
    # Opening needs no repair by hand, and no file of the dead owner is in the way.
    client = CollectionsClient(InProcess(Collections(EdgeStore(root))))
    records = client.documents("c")
    assert {str(number) for number in range(acknowledged + 1)} <= {record.document_id for record in records}
    indexed = sum(record.num_chunks for record in records)
    assert client.count("c") >= indexed
    hits = client.search("c", SearchRequest(f"document {acknowledged}", mode=Mode.BM25, top_k=1)).hits
    assert hits[0].document_id == str(acknowledged)
    client.close()


def test_a_second_process_is_refused_at_once_and_told_what_to_do(tmp_path: Path) -> None:
    root = tmp_path / "collections"
    with writer(root) as process:
        assert process.stdout is not None
        process.stdout.readline()
        with pytest.raises(Conflict, match="HAMLET_QDRANT_URL"):
            EdgeStore(root)
    EdgeStore(root).close()


def test_a_half_made_collection_is_cleared_away(tmp_path: Path) -> None:
    (tmp_path / ".new-abc" / "shard").mkdir(parents=True)
    store = EdgeStore(tmp_path)
    assert store.names() == []
    assert not (tmp_path / ".new-abc").exists()
    store.close()


KEYS = {"team": FieldType.STRING, "year": FieldType.NUMBER, "open": FieldType.BOOLEAN}
POOLS: dict[str, list[Any]] = {
    "team": ["hr", "it", "law"],
    "year": [2023, 2024, 2024.5],
    "open": [True, False],
}


def random_filter(rng: random.Random, depth: int = 0) -> dict[str, Any]:
    if depth < 3 and rng.random() < 0.4:
        kind = rng.choice(["and", "or", "not"])
        count = 1 if kind == "not" else rng.randint(1, 3)
        return {"type": kind, "filters": [random_filter(rng, depth + 1) for _ in range(count)]}
    key = rng.choice(list(KEYS))
    op = rng.choice(list(Op) if key == "year" else [Op.EQ, Op.NE, Op.IN, Op.NIN])
    pool = POOLS[key]
    value = rng.sample(pool, rng.randint(1, 2)) if op in (Op.IN, Op.NIN) else rng.choice(pool)
    return {"type": op.value, "key": key, "value": value}


def test_thousands_of_filters_agree_with_their_definition_and_leak_no_tenant(tmp_path: Path) -> None:
    rng = random.Random(7)
    vectors = np.random.default_rng(7).standard_normal((60, 8)).astype(np.float32)
    points = []
    for number, vector in enumerate(vectors):
        metadata = {key: rng.choice(pool) for key, pool in POOLS.items() if rng.random() < 0.7}
        if rng.random() < 0.2:
            metadata["team"] = ["hr", "law"]
        payload = {"tenant": rng.choice(["ann", "bob"]), "document_id": str(number), "position": 0}
        points.append(
            Point(f"{number:032x}", vector, SparseVector((1,), (1.0,)), {**payload, "metadata": metadata})
        )
    store = EdgeStore(tmp_path / "collections")
    store.create(CollectionSpec("c", 8, "e", "f"))
    store.add_fields("c", KEYS)
    store.upsert("c", points, "f")
    for _ in range(10_000):
        raw = random_filter(rng)
        where: Filter = And((equals("tenant", "ann"), parse_filter(raw, KEYS)))
        found = store.nearest("c", vectors[rng.randrange(60)], 60, where)
        assert {hit.payload["tenant"] for hit in found} <= {"ann"}
        expected = {point.payload["document_id"] for point in points if matches(where, point.payload)}
        assert {hit.payload["document_id"] for hit in found} == expected, raw
    store.close()


def test_searches_and_writes_at_once_see_whole_points(tmp_path: Path) -> None:
    client = CollectionsClient(InProcess(Collections(EdgeStore(tmp_path / "collections"))))
    config = retrieval_config(collection="c", chunk_tokens=20, chunk_overlap_tokens=0, deduplicate=False)
    embedder = HashEmbedder()
    Ingestor(client, embedder, config)
    query = embedder.embed_queries(["number 3"])[0]
    errors: list[Exception] = []
    written = threading.Event()

    def write(name: str) -> None:
        text = " ".join(f"Sentence number {n}." for n in range(60))
        try:
            for number in range(10):
                document = Document(f"{name}{number % 3}", "t", "u", Content(text, (Section(0, len(text)),)))
                Ingestor(client, embedder, config).add([document])
                client.delete_documents("c", [document.id])
        except (HamletError, AssertionError) as error:
            errors.append(error)

    def read() -> None:
        try:
            while not written.is_set():
                for hit in client.search("c", SearchRequest("number 3", query, top_k=20)).hits:
                    assert hit.text
        except (HamletError, AssertionError) as error:
            errors.append(error)

    writers = [threading.Thread(target=write, args=(name,)) for name in "ab"]
    readers = [threading.Thread(target=read) for _ in range(2)]
    for thread in [*writers, *readers]:
        thread.start()
    for thread in writers:
        thread.join()
    written.set()
    for thread in readers:
        thread.join()
    assert errors == []
    assert client.count("c") == 0
    client.close()
