"""How good a search is, on questions whose answers are known: metrics with their uncertainty.

The metrics are ir_measures' (trec_eval's definitions), a value for each question. The interval is a percentile
bootstrap over questions: what the mean might have been with other questions of the same kind.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path

import ir_measures
import numpy as np
from ir_measures import RR, P, R, nDCG

from retrieval.beir import JudgedQuestions
from retrieval.client import CollectionsClient
from retrieval.config import retrieval_config
from retrieval.edge_store import EdgeStore
from retrieval.ingest import Ingestor
from retrieval.owner import InProcess
from retrieval.points import Hit
from retrieval.rerank import Reranker, rerank
from retrieval.search import Mode, SearchRequest, SearchResult
from retrieval.service import Collections
from retrieval.vectorizer import TextEmbedder

METRICS = {
    "recall_at_5": R @ 5,
    "recall_at_10": R @ 10,
    "precision_at_5": P @ 5,
    "mrr_at_10": RR @ 10,
    "ndcg_at_10": nDCG @ 10,
}
NUM_RESAMPLES = 1000

# Hits of which documents are made. A long document fills many places, and ten documents are judged.
TOP_CHUNKS = 50

# The name of the temporary collection.
COLLECTION = "evaluated"

Ranking = Sequence[str]
Search = Callable[[str], Ranking]


@dataclass(frozen=True)
class Estimate:
    """A mean over questions and its 95 % interval."""

    mean: float
    low: float
    high: float


@contextmanager
def indexed(
    judged: JudgedQuestions, embedder: TextEmbedder, on_document: Callable[[str], None] = lambda _: None
) -> Iterator[CollectionsClient]:
    """The documents in COLLECTION, a temporary one. `on_document` is called with each id that is indexed."""
    with (
        tempfile.TemporaryDirectory(prefix="hamlet-evaluate-") as scratch,
        CollectionsClient(InProcess(Collections(EdgeStore(Path(scratch))))) as collections,
    ):
        config = retrieval_config(collection=COLLECTION, embedder=embedder.name, deduplicate=False)
        Ingestor(collections, embedder, config, on_document=on_document).add(judged.documents)
        yield collections


def searches(
    collections: CollectionsClient,
    collection: str,
    embedder: TextEmbedder,
    reranker: Reranker | None = None,
) -> dict[str, Search]:
    """A way to rank documents for each combination of stages: dense, bm25, hybrid, hybrid + rerank."""

    @cache  # every way asks the same questions
    def vector_of(question: str) -> np.ndarray:
        vector: np.ndarray = embedder.embed_queries([question], truncate=True)[0]
        return vector

    def ask(mode: Mode, question: str) -> SearchResult:
        request = SearchRequest(question, vector_of(question), top_k=TOP_CHUNKS, mode=mode)
        return collections.search(collection, request)

    def rank(mode: Mode, question: str) -> Ranking:
        return documents_of(ask(mode, question).hits)

    ways: dict[str, Search] = {mode.value: partial(rank, mode) for mode in Mode}
    if reranker is not None:
        ways["hybrid + rerank"] = lambda question: documents_of(
            rerank(question, ask(Mode.HYBRID, question), reranker, TOP_CHUNKS).hits
        )
    return ways


def documents_of(hits: Sequence[Hit]) -> list[str]:
    """Documents in the order of their best chunk."""
    return list(dict.fromkeys(hit.document_id for hit in hits))


def evaluate(judged: JudgedQuestions, search: Search) -> dict[str, Estimate]:
    """Every metric of METRICS for one way to search."""
    return {name: estimate(values) for name, values in measure(judged, search).items()}


def measure(judged: JudgedQuestions, search: Search) -> dict[str, np.ndarray]:
    """The values behind the estimates, one for each question: [questions], float64, in the questions' order."""
    return per_question(judged.relevant, {id_: search(text) for id_, text in judged.questions.items()})


def per_question(
    relevant: Mapping[str, Mapping[str, int]], rankings: Mapping[str, Ranking]
) -> dict[str, np.ndarray]:
    """Values of each metric, one for each question that is judged: [questions], float64.

    A question without a ranking counts 0: to answer nothing is not to be left out.
    """
    # ir_measures orders by score; the rank itself is the score, so that its ties cannot reorder ours.
    run = {
        question: {document: float(-rank) for rank, document in enumerate(ranking)}
        for question, ranking in rankings.items()
    }
    values = {name: dict.fromkeys(relevant, 0.0) for name in METRICS}
    names = {str(measure): name for name, measure in METRICS.items()}
    for found in ir_measures.iter_calc(list(METRICS.values()), relevant, run):
        values[names[str(found.measure)]][found.query_id] = found.value
    return {name: np.asarray(list(by_question.values())) for name, by_question in values.items()}


def estimate(values: np.ndarray, seed: int = 0) -> Estimate:
    """Mean of [questions] values with a 95 % percentile bootstrap interval.

    >>> estimate(np.ones(5))
    Estimate(mean=1.0, low=1.0, high=1.0)
    """
    draws = np.random.default_rng(seed).integers(0, len(values), (NUM_RESAMPLES, len(values)))
    low, high = np.percentile(values[draws].mean(axis=1), [2.5, 97.5])
    return Estimate(float(values.mean()), float(low), float(high))


def difference(first: np.ndarray, second: np.ndarray) -> Estimate:
    """How much better `second` is than `first` on the same questions: [questions] each, paired."""
    return estimate(second - first)


def plot(results: Mapping[str, Mapping[str, Estimate]], path: Path) -> None:
    """Bars of each metric by stage, with intervals, as an image."""
    from matplotlib.figure import Figure  # late: it takes a second

    # Not pyplot, which keeps figures for the whole process and asks for a display.
    figure = Figure(figsize=(9, 4), layout="constrained")
    axes = figure.add_subplot()
    width = 0.8 / len(results)
    for index, (stage, estimates) in enumerate(results.items()):
        means = [found.mean for found in estimates.values()]
        below = [found.mean - found.low for found in estimates.values()]
        above = [found.high - found.mean for found in estimates.values()]
        places = np.arange(len(means)) + index * width
        axes.bar(places, means, width, yerr=[below, above], label=stage, capsize=2)
    axes.set_xticks(np.arange(len(METRICS)) + 0.4 - width / 2, list(METRICS))
    axes.set_ylim(0, 1)
    axes.set_ylabel("mean over questions, 95 % interval")
    figure.legend(loc="outside upper center", ncols=4)  # above the bars, which it would hide
    figure.savefig(path)


def as_json(results: Mapping[str, Mapping[str, Estimate]]) -> dict[str, dict[str, dict[str, float]]]:
    return {
        stage: {name: asdict(found) for name, found in estimates.items()}
        for stage, estimates in results.items()
    }
