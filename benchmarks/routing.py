"""How often `auto` takes the route that a question needs, and what it takes instead: a confusion matrix.

    python benchmarks/routing.py --json routing.json
    python benchmarks/routing.py --route-model handbook-routes      # trained by examples/routes-handbook.yaml

216 questions with the route that they need: 108 about the example handbook's company (rag; 12 of them ask what no
document says), 36 of small talk and common knowledge (plain), 72 pairs of sentences to compare (classifier).
The policy, the embedder and the search are those of serving, in this process; no language model takes part. The
baseline is to send everything down the route that most questions need. With a classifier of routes in force, the
shipped rule is measured beside it.

Below: how many questions of each kind have a passage that reaches `retriever.least_score`. Those of another field are
about Python (`retrieval_quality.jsonl`), asked of the handbook all the same.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

# Python puts this file's folder first, where retrieval.py would be taken for the package.
sys.path.pop(0)

from sklearn.metrics import confusion_matrix

from cluster.registry import Registry
from retrieval.client import CollectionsClient
from retrieval.config import DEFAULT_EMBEDDER, retrieval_config
from retrieval.edge_store import EdgeStore
from retrieval.embedding import Embedder
from retrieval.ingest import Ingestor
from retrieval.owner import InProcess
from retrieval.search import SearchRequest
from retrieval.service import Collections
from serving.classifier import Classifier
from serving.config import ClassifierConfig, RetrieverConfig, RouterConfig
from serving.policy import Available, Features, RouteKind, choose, rule_in_force, sentence_pair

REPOSITORY = Path(__file__).parents[1]
HANDBOOK = REPOSITORY / "examples" / "handbook"
AVAILABLE = Available(base="base", tuned=None, pair_classifier="pairs", retrieval=True)
ROUTES = (RouteKind.RAG, RouteKind.PLAIN, RouteKind.CLASSIFIER)
NUM_PAIRS = 72
ANY_SIMILARITY = -1.0
OTHER_QUESTIONS = (
    REPOSITORY / "evaluation" / "general.jsonl",
    Path(__file__).with_name("retrieval_quality.jsonl"),
)
GROUPS = {
    "taught": "answered by a page",
    "untaught": "answered by a page",
    "unanswerable": "answered by none",
    "smalltalk": "small talk",
    "general": "small talk",
}
LEAST_SCORES = (0.15, 0.2, 0.25, 0.3, 0.35, 0.4)


def labelled_questions() -> list[tuple[str, RouteKind]]:
    """Each question with the route that it needs."""
    labelled = []
    for path in (HANDBOOK / "test.jsonl", REPOSITORY / "evaluation" / "general.jsonl"):
        for line in path.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            is_covered = row["kind"] not in ("smalltalk", "general")
            labelled.append((row["question"], RouteKind.RAG if is_covered else RouteKind.PLAIN))
    with (REPOSITORY / "examples" / "paraphrase" / "test.tsv").open(encoding="utf-8") as file:
        pairs = list(csv.DictReader(file, delimiter="\t"))[:NUM_PAIRS]
    asked = (
        'Do "{sentence1}" and "{sentence2}" mean the same?',
        "Sentence 1: {sentence1}\nSentence 2: {sentence2}",
        'Is "{sentence1}" a paraphrase of "{sentence2}"?',
    )
    for number, pair in enumerate(pairs):
        labelled.append((asked[number % len(asked)].format(**pair), RouteKind.CLASSIFIER))
    return labelled


def learned_routes(questions: list[str], name: str) -> list[RouteKind]:
    """The route that a registered classifier takes for each question; pairs go before it, as in serving."""
    card = Registry().get(name)
    verdicts = asyncio.run(Classifier(ClassifierConfig()).classify(card, [(q,) for q in questions]))
    return [
        RouteKind.CLASSIFIER if sentence_pair(question) else RouteKind(verdict.scores[0][0])
        for question, verdict in zip(questions, verdicts, strict=True)
    ]


def routes(questions: list[str]) -> list[RouteKind]:
    """The route that the shipped rule takes for each question."""
    rule = rule_in_force(RouterConfig(), None)
    pairs = [sentence_pair(question) for question in questions]
    scores = best_scores(questions)
    return [
        choose(Features(pair, score if pair is None else None), AVAILABLE, rule).kind
        for pair, score in zip(pairs, scores, strict=True)
    ]


def best_scores(questions: list[str]) -> list[float]:
    """The cosine similarity of each question to the passage of the handbook that is nearest to it."""
    embedder = Embedder(DEFAULT_EMBEDDER)
    with (
        tempfile.TemporaryDirectory() as scratch,
        CollectionsClient(InProcess(Collections(EdgeStore(Path(scratch))))) as collections,
    ):
        Ingestor(collections, embedder, retrieval_config(collection="handbook")).add_paths(
            [str(HANDBOOK / "docs")], {}
        )
        scores = []
        for question in questions:
            vector = embedder.embed_queries([question], truncate=True)[0]
            request = SearchRequest(question, vector, top_k=4, score_threshold=ANY_SIMILARITY)
            hits = collections.search("handbook", request).hits
            scores.append(max((hit.scores["dense"] for hit in hits), default=0.0))
        return scores


def show_least_scores() -> list[dict[str, Any]]:
    """How many questions of each kind have a passage that counts, by `retriever.least_score`; its metrics."""
    asked: dict[str, list[str]] = {}
    for path in (HANDBOOK / "test.jsonl", *OTHER_QUESTIONS):
        for line in path.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            asked.setdefault(GROUPS.get(row["kind"], "of another field"), []).append(row["question"])
    scores = {group: best_scores(questions) for group, questions in asked.items()}
    bounds = sorted({*LEAST_SCORES, RetrieverConfig().least_score})
    print(f"\n{'least_score':20}" + "".join(f"{bound:>8.2f}" for bound in bounds) + "   lowest")
    for group, found in scores.items():
        shares = "".join(f"{share_above(found, bound):8.3f}" for bound in bounds)
        print(f"{group:20}{shares}{min(found):9.3f}  of {len(found)}")
    return [
        {
            "metric": f"least_score_passes_{group.replace(' ', '_')}",
            "value": share_above(found, RetrieverConfig().least_score),
            "unit": "share",
            "baseline": 1.0,
            "ratio": share_above(found, RetrieverConfig().least_score),
            "spread": 0.0,
        }
        for group, found in scores.items()
    ]


def share_above(scores: list[float], bound: float) -> float:
    return sum(score >= bound for score in scores) / len(scores)


def main() -> None:
    """Print the confusion matrix and the accuracy of each policy."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="the same: it takes seconds")
    parser.add_argument("--route-model", help="registered classifier of routes, by name or alias")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    arguments = parser.parse_args()
    labelled = labelled_questions()
    questions = [question for question, _ in labelled]
    metrics = [figures("route_accuracy", labelled, lambda: routes(questions))]
    if arguments.route_model:
        learned = figures(
            "route_accuracy_learned", labelled, lambda: learned_routes(questions, arguments.route_model)
        )
        metrics.append(learned)
    metrics += show_least_scores()
    if arguments.json:
        document = {
            "machine": {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()},
            "versions": {name: version(name) for name in ("torch", "transformers", "qdrant-client")},
            "metrics": metrics,
        }
        arguments.json.write_text(json.dumps(document, indent=2), encoding="utf-8")


def figures(
    name: str, labelled: list[tuple[str, RouteKind]], take: Callable[[], list[RouteKind]]
) -> dict[str, Any]:
    """The metric of one policy, printed with its confusion matrix and each question that goes another way."""
    started = time.perf_counter()
    taken = take()
    needed = [route for _, route in labelled]
    names = [route.value for route in ROUTES]
    matrix = confusion_matrix([r.value for r in needed], [r.value for r in taken], labels=names)
    accuracy = float(matrix.trace() / len(labelled))
    baseline = max(needed.count(route) for route in ROUTES) / len(labelled)
    print(f"{'needed':12}" + "".join(f"{route:>12}" for route in names) + "   taken")
    for route, row in zip(names, matrix, strict=True):
        print(f"{route:12}" + "".join(f"{count:12}" for count in row))
    print(f"{name}  {accuracy:.3f}  baseline {baseline:.3f}  ({time.perf_counter() - started:.1f} s)")
    for (question, wanted), chosen in zip(labelled, taken, strict=True):
        if chosen is not wanted:
            print(f"  {wanted} -> {chosen}: {question}")
    return {
        "metric": name,
        "value": accuracy,
        "unit": "share",
        "baseline": baseline,
        "ratio": accuracy / baseline,
        "spread": 0.0,  # nothing is drawn: each run gives the same
        "confusion": {"labels": names, "rows_needed": matrix.tolist()},
    }


if __name__ == "__main__":
    main()
