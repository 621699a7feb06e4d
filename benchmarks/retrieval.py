"""What retrieval costs: searching, building, reopening and filling a collection, beside its peers.

    python benchmarks/retrieval.py --quick --json retrieval.json

Peers in the same run: qdrant-client's local mode and a plain NumPy scan for searching (on fewer vectors where
they would take minutes), `SentenceTransformer.encode` and our own backend alone for filling.

The vectors are made: 384 numbers of intrinsic dimension 32, which is in the range measured for sentence
embeddings. Independent random numbers would be harder than any text, clusters of copies easier. Every point
has a tenant and a team of twenty; a filtered search asks for one team of one tenant.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import pydoc_data.topics
import resource
import statistics
import sys
import tempfile
import time
import uuid
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

# Python puts this file's folder first, where this file would be taken for the package of the same name.
sys.path.pop(0)

import numpy as np
import psutil
from qdrant_client import QdrantClient

from retrieval.client import CollectionsClient
from retrieval.config import retrieval_config
from retrieval.documents import Content, Document, Section
from retrieval.edge_store import EdgeStore
from retrieval.filters import And, FieldType, Filter, equals
from retrieval.owner import InProcess
from retrieval.server_store import ServerStore
from retrieval.service import Collections
from retrieval.store import CollectionSpec, Point, SparseVector, VectorStore

DIMENSION = 384
INTRINSIC_DIMENSION = 32
NUM_TEAMS = 20
TOP_K = 10
PAYLOAD_TEXT = "A passage of the usual length. " * 12

EVERYONE: Filter = equals("tenant", "t")
ONE_TEAM: Filter = And((EVERYONE, equals("metadata.team", "team3")))

Row = dict[str, Any]


def make_vectors(count: int, seed: int) -> np.ndarray:
    """[count, DIMENSION], float32, L2-normalised; one space for all seeds."""
    space = np.random.default_rng(0).standard_normal((INTRINSIC_DIMENSION, DIMENSION), dtype=np.float32)
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((count, INTRINSIC_DIMENSION), dtype=np.float32) @ space
    vectors += 0.1 * rng.standard_normal((count, DIMENSION), dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


def make_point(number: int, vector: np.ndarray) -> Point:
    payload = {
        "tenant": "t",
        "document_id": str(number // 10),
        "position": number % 10,
        "text": PAYLOAD_TEXT,
        "metadata": {"team": f"team{number % NUM_TEAMS}"},
    }
    return Point(str(uuid.UUID(int=number)), vector, SparseVector((number % 997,), (1.0,)), payload)


def exact(vectors: np.ndarray, queries: np.ndarray, allowed: np.ndarray) -> list[set[int]]:
    """The true TOP_K of each query among the allowed rows, by a full scan."""
    rows = np.flatnonzero(allowed)
    scores = queries @ vectors[rows].T
    best = np.argpartition(-scores, TOP_K, axis=1)[:, :TOP_K]
    return [set(rows[found].tolist()) for found in best]


def timed_searches(
    store: VectorStore, queries: np.ndarray, where: Filter, truth: Sequence[set[int]]
) -> tuple[list[float], float]:
    """Milliseconds of each search through the store's own verb, payloads included, and recall@10."""
    store.nearest("bench", queries[0], TOP_K, where)
    times_ms, num_right = [], 0
    for query, right in zip(queries, truth, strict=True):
        start = time.perf_counter()
        hits = store.nearest("bench", query, TOP_K, where)
        times_ms.append((time.perf_counter() - start) * 1000)
        num_right += len({uuid.UUID(hit.id).int for hit in hits} & right)
    return times_ms, num_right / (TOP_K * len(queries))


def fill(store: VectorStore, vectors: np.ndarray) -> float:
    """Seconds to write all vectors, acknowledged batch by batch."""
    store.create(CollectionSpec("bench", DIMENSION, "made", "made"))
    store.add_fields("bench", {"team": FieldType.STRING})
    start = time.perf_counter()
    for first in range(0, len(vectors), 1000):
        batch = vectors[first : first + 1000]
        store.upsert("bench", [make_point(first + row, vector) for row, vector in enumerate(batch)], "made")
    return time.perf_counter() - start


def measure_store(num_vectors: int, num_queries: int) -> list[Row]:
    """The embedded engine on this many vectors, and a NumPy scan of the same."""
    name = f"{num_vectors // 1_000_000}m" if num_vectors >= 1_000_000 else f"{num_vectors // 1000}k"
    vectors, queries = make_vectors(num_vectors, 1), make_vectors(num_queries, 2)
    everyone = np.ones(num_vectors, dtype=bool)
    one_team = np.arange(num_vectors) % NUM_TEAMS == 3
    truth = {EVERYONE: exact(vectors, queries, everyone), ONE_TEAM: exact(vectors, queries, one_team)}
    scan_ms = [timed(partial(exact, vectors, query[None], everyone)) for query in queries[:50]]
    scan_filtered_ms = [timed(partial(exact, vectors, query[None], one_team)) for query in queries[:50]]
    with tempfile.TemporaryDirectory(prefix="hamlet-bench-") as scratch:
        before = psutil.Process().memory_info().rss
        store = EdgeStore(Path(scratch))
        write_s = fill(store, vectors)
        start = time.perf_counter()
        store.optimize("bench")
        build_s = time.perf_counter() - start
        plain_ms, recall = timed_searches(store, queries, EVERYONE, truth[EVERYONE])
        filtered_ms, filtered_recall = timed_searches(store, queries, ONE_TEAM, truth[ONE_TEAM])
        memory_mib = (psutil.Process().memory_info().rss - before) / 2**20
        store.close()
        start = time.perf_counter()
        store = EdgeStore(Path(scratch))
        store.nearest("bench", queries[0], TOP_K, EVERYONE)
        reopen_s = time.perf_counter() - start
        store.close()
    return [
        row(f"search_p50_{name}", "ms", plain_ms, scan_ms),
        row(f"search_p99_{name}", "ms", [percentile(plain_ms, 99)], [percentile(scan_ms, 99)]),
        row(f"search_filtered_p50_{name}", "ms", filtered_ms, scan_filtered_ms),
        row(
            f"search_filtered_p99_{name}",
            "ms",
            [percentile(filtered_ms, 99)],
            [percentile(scan_filtered_ms, 99)],
        ),
        row(f"search_recall_at_10_{name}", "", [recall]),
        row(f"search_filtered_recall_at_10_{name}", "", [filtered_recall]),
        row(f"write_{name}", "s", [write_s]),
        row(f"build_{name}", "s", [build_s]),
        row(f"memory_{name}", "MiB", [memory_mib], [vectors.nbytes / 2**20]),
        row(f"reopen_{name}", "s", [reopen_s]),
    ]


def measure_local_mode(num_vectors: int, num_queries: int) -> list[Row]:
    """The embedded engine beside qdrant-client's local mode, on as many vectors as that can bear."""
    name = f"{num_vectors // 1000}k"
    vectors, queries = make_vectors(num_vectors, 1), make_vectors(num_queries, 2)
    everyone = np.ones(num_vectors, dtype=bool)
    one_team = np.arange(num_vectors) % NUM_TEAMS == 3
    truth = [exact(vectors, queries, everyone), exact(vectors, queries, one_team)]
    figures: list[tuple[float, list[float], list[float]]] = []
    with tempfile.TemporaryDirectory(prefix="hamlet-bench-") as scratch, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        stores: list[VectorStore] = [EdgeStore(Path(scratch)), ServerStore(QdrantClient(":memory:"))]
        for store in stores:
            write_s = fill(store, vectors)
            store.optimize("bench")
            plain_ms, _ = timed_searches(store, queries, EVERYONE, truth[0])
            filtered_ms, _ = timed_searches(store, queries, ONE_TEAM, truth[1])
            figures.append((write_s, plain_ms, filtered_ms))
            store.close()
    ours, local = figures
    return [
        row(f"write_vs_local_mode_{name}", "s", [ours[0]], [local[0]]),
        row(f"search_p50_vs_local_mode_{name}", "ms", ours[1], local[1]),
        row(f"search_filtered_p50_vs_local_mode_{name}", "ms", ours[2], local[2]),
    ]


def measure_filling(num_documents: int, num_rounds: int) -> list[Row]:
    """Documents to searchable chunks, beside the encoders alone on the same chunks, in turns."""
    from sentence_transformers import SentenceTransformer

    from cluster.references import resolve_model
    from retrieval.embedding import Embedder
    from retrieval.ingest import Ingestor

    topics = sorted(pydoc_data.topics.topics.items(), key=lambda item: len(item[1]))[-num_documents:]
    documents = [Document(name, name, name, Content(text, (Section(0, len(text)),))) for name, text in topics]
    embedder = Embedder("builtin:minilm")
    plain = SentenceTransformer(str(resolve_model("builtin:minilm")), device="cpu")
    rates: dict[str, list[float]] = {"ingest": [], "encode": [], "ceiling": []}
    texts: list[str] = []
    for number in range(num_rounds + 1):
        with (
            tempfile.TemporaryDirectory(prefix="hamlet-bench-") as scratch,
            CollectionsClient(InProcess(Collections(EdgeStore(Path(scratch))))) as collections,
        ):
            report = Ingestor(collections, embedder, retrieval_config(collection="bench")).add(documents)
            texts = texts or [
                f"{chunk.payload['context']}\n{chunk.payload['text']}"
                for chunk in collections.page("bench", report.num_chunks)
            ]
        ceiling_ms = timed(partial(embedder.embed_documents, texts))
        encode_ms = timed(partial(plain.encode, texts))
        if number:  # the first round warms up
            rates["ingest"].append(report.chunks_per_s)
            rates["ceiling"].append(len(texts) / ceiling_ms * 1000)
            rates["encode"].append(len(texts) / encode_ms * 1000)
    return [
        row("ingest_vs_encode", "chunks/s", rates["ingest"], rates["encode"]),
        row("ingest_vs_encoder_ceiling", "chunks/s", rates["ingest"], rates["ceiling"]),
    ]


def timed(operation: Callable[[], object]) -> float:
    """Milliseconds of one call."""
    start = time.perf_counter()
    operation()
    return (time.perf_counter() - start) * 1000


def percentile(values: Sequence[float], percent: float) -> float:
    return float(np.percentile(values, percent))


def row(metric: str, unit: str, values: Sequence[float], baseline: Sequence[float] | None = None) -> Row:
    """One line of the report: medians, their ratio, and the spread (75th minus 25th percentile)."""
    value = statistics.median(values)
    other = statistics.median(baseline) if baseline else None
    return {
        "metric": metric,
        "value": value,
        "unit": unit,
        "baseline": other,
        "ratio": value / other if other else None,
        "spread": percentile(values, 75) - percentile(values, 25),
    }


def show(rows: Sequence[Row]) -> None:
    print(f"{'metric':42}{'value':>10}  {'unit':9}{'peer':>10}{'ratio':>8}{'spread':>9}")
    for line in rows:
        peer = f"{line['baseline']:10.2f}" if line["baseline"] is not None else f"{'-':>10}"
        ratio = f"{line['ratio']:8.3f}" if line["ratio"] is not None else f"{'-':>8}"
        print(f"{line['metric']:42}{line['value']:10.3f}  {line['unit']:9}{peer}{ratio}{line['spread']:9.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--quick", action="store_true", help="100 k vectors only, smaller peers: under three minutes"
    )
    parser.add_argument("--million", action="store_true", help="also 1,000,000 vectors (20 minutes and more)")
    parser.add_argument("--only", choices=["search", "filling"], help="one half of it")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    arguments = parser.parse_args()

    rows: list[Row] = []
    if arguments.only != "search":
        rows += measure_filling(*((20, 2) if arguments.quick else (60, 5)))
    if arguments.only != "filling":
        sizes = [100_000] if arguments.quick else [20_000, 100_000]
        for size in sizes + [1_000_000] * arguments.million:
            rows += measure_store(size, 200 if arguments.quick else 1000)
        rows += measure_local_mode(2_000 if arguments.quick else 20_000, 50)
    show(rows)
    if arguments.json:
        packages = ("qdrant-edge-py", "qdrant-client", "torch", "sentence-transformers", "numpy")
        document = {
            "machine": {
                "processor": platform.processor() or platform.machine(),
                "cores": os.cpu_count(),
                "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
                "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            },
            "versions": {name: version(name) for name in packages},
            "metrics": rows,
        }
        arguments.json.write_text(json.dumps(document, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
