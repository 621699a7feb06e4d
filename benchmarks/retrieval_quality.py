"""How well retrieval finds the right page of Python's own documentation, stage by stage.

    python benchmarks/retrieval_quality.py --json quality.json --plot quality.png

The documents are the language reference and the docstrings of the standard library (`python_docs.py`), some 6,000.
The 92 questions of `retrieval_quality.jsonl` are ours: definitions, tasks, errors, paraphrases and keywords, each with
the pages that answer it. The embedder and a pair classifier as reranker are tuned with Hamlet on other pages: none of a
module that a question is about, none of the same name. A page's first paragraph stands for a question there, its rest
for the answer. Tuning needs a running head (`python -m cluster up`); `--tuned` and `--reranker` take models of an
earlier run instead.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from python_docs import Page, module_of, python_docs

sys.path.pop(0)  # this folder, whose retrieval.py would be found before the package

from cluster.connection import prepare_client
from retrieval import evaluate
from retrieval.beir import JudgedQuestions, read_beir
from retrieval.client import CollectionsClient
from retrieval.config import DEFAULT_EMBEDDER
from retrieval.console import print_evaluation
from retrieval.embedding import Embedder
from retrieval.rerank import CrossEncoder
from retrieval.search import SearchRequest

QUESTIONS = Path(__file__).with_suffix(".jsonl")
REPORTED = ("recall_at_5", "ndcg_at_10")
VALIDATION_EVERY = 20
# Wrong pages beside each right one: what the search itself takes for the answer, and any others. Of the former alone,
# which differ from the right one in a detail, 1,500 questions teach nothing: nothing was told to be equivalent.
NUM_FOUND = 1
NUM_ANY = 1
NUM_RERANKER_QUESTIONS = 1500
MIN_SUMMARY_WORDS = 4

# Small steps: the embedder is a good one already, and has to keep what it knows of questions.
EMBEDDING = {
    "epochs": 1,
    "learning_rate": 2e-5,
    "max_length_tokens": 128,
    "batch": {"micro_batch_size_per_gpu": 32},
}
RERANKER = {
    "epochs": 3,
    "learning_rate": 5e-5,
    "max_length_tokens": 128,
    "batch": {"micro_batch_size_per_gpu": 16},
}

Values = Mapping[str, Mapping[str, np.ndarray]]
Rows = list[dict[str, Any]]


def read_questions() -> Rows:
    """Rows with id, kind, question and the ids of the pages that answer it."""
    return [json.loads(line) for line in QUESTIONS.read_text(encoding="utf-8").splitlines()]


def judged(pages: Sequence[Page], questions: Rows) -> JudgedQuestions:
    """Pages and questions as a BEIR folder, read back as `python -m retrieval evaluate` reads one."""
    known = {page.id for page in pages}
    for row in questions:
        if unknown := set(row["right"]) - known:
            raise SystemExit(
                f"this Python has no page {sorted(unknown)}, the answer of {row['id']}; use 3.11"
            )
    with tempfile.TemporaryDirectory(prefix="hamlet-beir-") as scratch:
        folder = Path(scratch)
        write_jsonl(folder / "corpus.jsonl", ({"_id": p.id, "title": p.title, "text": p.text} for p in pages))
        write_jsonl(
            folder / "queries.jsonl", ({"_id": row["id"], "text": row["question"]} for row in questions)
        )
        (folder / "qrels").mkdir()
        lines = ["query-id\tcorpus-id\tscore"]
        lines += [f"{row['id']}\t{page_id}\t1" for row in questions for page_id in row["right"]]
        (folder / "qrels" / "test.tsv").write_text("\n".join(lines), encoding="utf-8")
        return read_beir(folder)


def training_pairs(pages: Sequence[Page], questions: Rows) -> list[tuple[str, Page]]:
    """What a page says first, and the page without it, for pages far from every question."""
    right = {page_id for row in questions for page_id in row["right"]}
    modules = {module_of(page_id) for page_id in right}
    names = {page_id.rpartition(".")[2] for page_id in right}
    pairs = []
    for page in pages:
        summary, _, rest = page.text.partition("\n\n")
        is_far = module_of(page.id) not in modules and page.id.rpartition(".")[2] not in names
        if is_far and len(summary.split()) >= MIN_SUMMARY_WORDS:
            pairs.append((" ".join(summary.split()), Page(page.id, page.title, rest.strip())))
    return pairs


def embedding_rows(pairs: Sequence[tuple[str, Page]]) -> Rows:
    return [{"query": summary, "passage": shown(page)} for summary, page in pairs]


def reranker_rows(
    pairs: Sequence[tuple[str, Page]], embedder: Embedder, collections: CollectionsClient
) -> Rows:
    """Each pair (label 1), and beside it pages that are no answer (label 0), one of which the search takes for it."""
    # Of a page that is one paragraph only its title would be left, and to be short would be to be right.
    others = {page.id: page for _, page in pairs if page.text}
    chance = random.Random(0)
    asked = chance.sample([pair for pair in pairs if pair[1].text], NUM_RERANKER_QUESTIONS)
    vectors = embedder.embed_queries([summary for summary, _ in asked], truncate=True)
    rows = []
    for (summary, page), vector in zip(asked, vectors, strict=True):
        rows.append({"sentence1": summary, "sentence2": shown(page), "label": 1})
        found = collections.search(evaluate.COLLECTION, SearchRequest(summary, vector, top_k=20)).hits
        others_found = [id_ for id_ in evaluate.documents_of(found) if id_ in others and id_ != page.id]
        wrong = others_found[:NUM_FOUND] + chance.sample(sorted(others.keys() - {page.id}), NUM_ANY)
        rows += [{"sentence1": summary, "sentence2": shown(others[id_]), "label": 0} for id_ in wrong]
    return rows


def shown(page: Page) -> str:
    """A page as its first chunk is embedded: the title in front."""
    return f"{page.title}\n{page.text}".strip()


def tuned(task: str, rows: Rows, settings: Mapping[str, Any]) -> str:
    """The registered name of MiniLM, tuned on these rows with Hamlet."""
    # Before Ray is imported, which reads both once.
    prepare_client()
    os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
    from training.config import FinetuneConfig
    from training.run import run

    with tempfile.TemporaryDirectory(prefix="hamlet-pairs-") as scratch:
        train, validation = Path(scratch, "train.jsonl"), Path(scratch, "validation.jsonl")
        write_jsonl(train, (row for number, row in enumerate(rows) if number % VALIDATION_EVERY))
        write_jsonl(validation, rows[::VALIDATION_EVERY])
        config = FinetuneConfig.model_validate(
            {
                "name": f"python-docs-{task}",
                "task": task,
                "model": DEFAULT_EMBEDDER,
                "data": {"path": train, "validation_path": validation},
                "scaling": {"cpus_per_worker": 2, "zero_stage": 0},
                "warmup_share": 0.1,
                "output": {"suffix": "python-docs"},
                **settings,
            }
        )
        card = run(config)
    print(f"{task}: {len(rows)} rows, {dict(card.metrics)} -> {card.id}")
    return card.id


def write_jsonl(path: Path, rows: Iterator[dict[str, Any]] | Rows) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def ask(
    documents: JudgedQuestions, embedder: Embedder, collections: CollectionsClient, reranker: str | None
) -> tuple[dict[str, dict[str, np.ndarray]], dict[str, float]]:
    """Values of each metric and question by stages, and the milliseconds that a question takes in each."""
    values, milliseconds = {}, {}
    model = CrossEncoder(reranker) if reranker else None
    for stages, search in evaluate.searches(collections, evaluate.COLLECTION, embedder, model).items():
        start = time.perf_counter()
        values[stages] = evaluate.measure(documents, search)
        milliseconds[stages] = (time.perf_counter() - start) * 1000 / len(documents.questions)
    return values, milliseconds


def metric_rows(
    prefix: str, values: Values, baselines: Mapping[str, Mapping[str, np.ndarray]], ms: Mapping[str, float]
) -> Rows:
    """A row for each stage and reported metric; `low` and `high` bound the paired difference to the baseline."""
    rows = []
    for stages, measured in values.items():
        for name in REPORTED:
            baseline = baselines[stages][name]
            found, gain = evaluate.estimate(measured[name]), evaluate.difference(baseline, measured[name])
            rows.append(
                {
                    "metric": f"{prefix}_{stages.replace(' + ', '_')}_{name}",
                    "value": found.mean,
                    "unit": "share",
                    "baseline": float(baseline.mean()),
                    "ratio": found.mean / float(baseline.mean()),
                    "spread": found.high - found.low,
                    "interval": [found.low, found.high],
                    "gain": vars(gain),
                    "ms_per_question": ms[stages],
                }
            )
    return rows


def show(rows: Rows) -> None:
    """What each stage gains on its baseline, question by question, and what it costs."""
    print(f"{'metric':42}{'value':>7}{'peer':>7}  {'gain, 95 % interval':24}{'ms/question':>12}")
    for row in rows:
        gain = row["gain"]
        interval = f"{gain['mean']:+.3f} [{gain['low']:+.3f}, {gain['high']:+.3f}]"
        print(
            f"{row['metric']:42}{row['value']:7.3f}{row['baseline']:7.3f}  {interval:24}{row['ms_per_question']:12.1f}"
        )


def show_kinds(values: Values, questions: Rows, metric: str) -> None:
    kinds = list(dict.fromkeys(row["kind"] for row in questions))
    print(f"{metric:20}" + "".join(f"{kind:>12}" for kind in kinds))
    for stages, measured in values.items():
        means = [measured[metric][[row["kind"] == kind for row in questions]].mean() for kind in kinds]
        print(f"{stages:20}" + "".join(f"{mean:12.3f}" for mean in means))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="nothing is tuned: under three minutes")
    parser.add_argument("--tuned", help="an embedder tuned by an earlier run")
    parser.add_argument(
        "--reranker", help="a pair classifier or cross-encoder in place of the one tuned here"
    )
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--plot", type=Path, help="also draw them here")
    arguments = parser.parse_args()

    pages, questions = python_docs(), read_questions()
    documents, pairs = judged(pages, questions), training_pairs(pages, questions)
    tuned_embedder, reranker = arguments.tuned, arguments.reranker
    if not arguments.quick and tuned_embedder is None:
        tuned_embedder = tuned("embedding", embedding_rows(pairs), EMBEDDING)
    rows: Rows = []
    results: dict[str, Any] = {}
    baselines: dict[str, Any] = {}
    for name, reference in {"plain": DEFAULT_EMBEDDER, "tuned": tuned_embedder}.items():
        if reference is None:
            continue
        embedder = Embedder(reference)
        with evaluate.indexed(documents, embedder) as collections:
            if not arguments.quick and reranker is None:
                reranker = tuned("classification", reranker_rows(pairs, embedder, collections), RERANKER)
            values, milliseconds = ask(documents, embedder, collections, reranker)
        # Before tuning each stage stands beside dense search, after it beside itself before.
        baselines = baselines or dict.fromkeys(values, values["dense"])
        rows += metric_rows(f"python_docs_{name}", values, baselines, milliseconds)
        baselines = values
        results |= {f"{name}: {stages}": measured for stages, measured in values.items()}
    estimates = {
        stages: {metric: evaluate.estimate(found) for metric, found in measured.items()}
        for stages, measured in results.items()
    }
    print_evaluation(estimates, len(documents.questions), len(documents.documents))
    show(rows)
    show_kinds(results, questions, "recall_at_5")
    if arguments.plot:
        evaluate.plot(estimates, arguments.plot)
    if arguments.json:
        document = {
            "machine": {
                "processor": platform.processor() or platform.machine(),
                "cores": os.cpu_count(),
                "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
            },
            "versions": {
                "python": platform.python_version(),
                **{name: version(name) for name in ("torch", "sentence-transformers", "qdrant-edge-py")},
            },
            "models": {"tuned": tuned_embedder, "reranker": reranker},
            "metrics": rows,
        }
        arguments.json.write_text(json.dumps(document, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
