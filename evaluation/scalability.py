"""Answers per second against requests at once, and search time against the size of the index."""

from __future__ import annotations

import math
import random
import re
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from evaluation.answers import Request
from evaluation.asking import ask_again
from evaluation.config import CompareConfig, retrieves
from evaluation.indexing import study_collection
from evaluation.kept import Kept

WORDS_PER_CHUNK = 40
SEARCHES = 12
PROJECTED_REPLICAS = (2, 4, 8)
PROJECTED_CHUNKS = (100_000, 1_000_000)


class Load(Kept):
    """One cell with so many requests in flight."""

    cell: str
    at_once: int
    answers_per_s: float
    tokens_per_s: float
    p50_ms: float


class IndexSize(Kept):
    num_chunks: int
    search_p50_ms: float


class Scalability(Kept):
    loads: tuple[Load, ...]
    index_sizes: tuple[IndexSize, ...] = ()

    @property
    def highest(self) -> dict[str, float]:
        """Cell to its answers per second with the most requests in flight."""
        return {load.cell: load.answers_per_s for load in sorted(self.loads, key=lambda load: load.at_once)}

    @property
    def scores(self) -> dict[str, float]:
        """Highest throughput over the best cell's."""
        best = max(self.highest.values())
        return {cell: value / best if best else 0.0 for cell, value in self.highest.items()}

    @property
    def projected_search_ms(self) -> dict[int, float]:
        """Chunks to milliseconds, beyond what was measured; empty for fewer than two sizes."""
        return project_search(self.index_sizes, PROJECTED_CHUNKS)


def project_search(measured: Sequence[IndexSize], sizes: Sequence[int]) -> dict[int, float]:
    """Search time at other sizes, growing with the logarithm as that of HNSW does (Malkov & Yashunin 2016).

    1 ms at 100 and 2 ms at 10,000 chunks -> 2.5 ms at 100,000
    No size makes a search faster: where the larger ones happened to be, their mean is projected.
    2 ms at 100 and 1 ms at 10,000 chunks -> 1.5 ms at 100,000
    """
    if len(measured) < 2:
        return {}
    x = np.log([size.num_chunks for size in measured])
    took_ms = np.array([size.search_p50_ms for size in measured])
    slope = max(float(np.polyfit(x, took_ms, 1)[0]), 0.0)
    return {size: float(took_ms.mean() + slope * (math.log(size) - x.mean())) for size in sizes}


def measure_scalability(config: CompareConfig, requests: Sequence[Request], run_id: str) -> Scalability:
    """Load each cell with `requests` of its own, again and again; then search ever larger collections."""
    assert config.scalability is not None
    loads = [
        _load(config, [request for request in requests if request.cell == cell], cell, at_once)
        for cell in config.cells
        for at_once in config.scalability.at_once
    ]
    searching = [request for request in requests if retrieves(request.model)]
    sizes = config.scalability.index_chunks if searching else ()
    return Scalability(
        loads=tuple(loads),
        index_sizes=tuple(_search(config, searching, size, run_id) for size in sorted(sizes)),
    )


def _load(config: CompareConfig, own: Sequence[Request], cell: str, at_once: int) -> Load:
    assert config.scalability is not None
    asked = [own[index % len(own)] for index in range(at_once * config.scalability.rounds)]
    started = time.perf_counter()
    answers = ask_again(config, asked, at_once)
    seconds = time.perf_counter() - started
    return Load(
        cell=cell,
        at_once=at_once,
        answers_per_s=len(answers) / seconds,
        tokens_per_s=sum(answer.completion_tokens for answer in answers) / seconds,
        p50_ms=float(np.median([answer.total_ms for answer in answers])),
    )


def _search(config: CompareConfig, searching: Sequence[Request], num_chunks: int, run_id: str) -> IndexSize:
    """Median time of the search stage in a collection of so many made-up chunks."""
    folder = config.output / f"size-{num_chunks}"
    _write_chunks(folder, num_chunks, _words(config.documents))
    with study_collection(run_id, folder.name, folder) as collection:
        shutil.rmtree(folder, ignore_errors=True)
        asked = [
            searching[index % len(searching)]._replace(collection=collection, max_tokens=1)
            for index in range(SEARCHES)
        ]
        answers = ask_again(config, asked, at_once=1)
    return IndexSize(
        num_chunks=num_chunks,
        search_p50_ms=float(np.median([answer.stage_ms.get("search", 0.0) for answer in answers])),
    )


def _words(documents: Path | None) -> list[str]:
    files = sorted(documents.rglob("*")) if documents else []
    text = " ".join(file.read_text(encoding="utf-8", errors="ignore") for file in files if file.is_file())
    return re.findall(r"[a-z]{2,}", text.lower()) or ["word", "another", "third"]


def _write_chunks(folder: Path, num_chunks: int, words: Sequence[str]) -> None:
    """One short file for each chunk, of words drawn from the documents: the search is timed, not judged."""
    folder.mkdir(parents=True, exist_ok=True)
    draw = random.Random(num_chunks)
    for number in range(num_chunks):
        text = " ".join(draw.choices(words, k=WORDS_PER_CHUNK))
        (folder / f"{number}.txt").write_text(text, encoding="utf-8")
