"""A whole comparison with all of its studies: real HTTP, files and registry; training and ingesting are played."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from cluster.cards import ModelCard, ModelKind, Parity
from cluster.errors import JobFailed
from cluster.grounding import INSTRUCTION
from cluster.registry import Registry
from cluster.reports import Report, Reports, ReportStatus
from evaluation import indexing
from evaluation.adaptability import Way
from evaluation.answers import Answer
from evaluation.compare import compare, prepare, publish
from evaluation.config import CompareConfig, TuningConfig
from evaluation.results import Results
from evaluation.rows import ROW_NAMES
from evaluation.tuning import train_seeds
from retrieval.config import RetrievalConfig

NUM_FACTS = 24
FACTS = {f"Fact {n}?": str(n) for n in range(100, 100 + NUM_FACTS)}
SEEDS = (1, 2, 3)


@dataclass
class PlayedTrainer:
    """Registers a card for each run; the name of a model says what it was trained on."""

    runs: list[tuple[str, ...]] = field(default_factory=list)
    num_before_failing: int | None = None

    def __call__(self, tuning: TuningConfig, run_id: str, overrides: Sequence[str]) -> tuple[str, float]:
        if self.num_before_failing is not None and len(self.runs) >= self.num_before_failing:
            raise JobFailed("the training job ended as FAILED: out of memory")
        self.runs.append(tuple(overrides))
        asked = dict(override.split("=", 1) for override in overrides)
        rows = asked.get("data.limit", "all")
        text = Path(asked["data.path"]).read_text() if "data.path" in asked else ""
        facts = "new" if "31 days" in text else "old"
        facts += "-read" if INSTRUCTION in text else ""
        model = f"ft:m:hamlet:{facts}:{rows}:{run_id}"
        card = ModelCard(
            id=model,
            kind=ModelKind.GENERATOR,
            base_model="m",
            weights_uri="w",
            max_length_tokens=64,
            config_sha256="0",
            data_sha256="0",
            code_version="0",
            metrics={"validation_loss": 1 / int(asked["seed"])},
            parity=Parity(passed=True, max_metric_difference=0),
        )
        Registry().register(card)
        return model, 100.0


@dataclass
class PlayedIndex:
    """Remembers what lies in each collection, by the folder that it came from."""

    collections: dict[str, dict[str, str]] = field(default_factory=dict)

    def __call__(self, verb: str, *arguments: str) -> str:
        if verb == "delete":
            del self.collections[arguments[1]]
            return ""
        folder, _, collection = arguments
        RetrievalConfig(collection=collection)  # refuses what no collection can be called
        was_there = collection in self.collections
        text = " ".join(file.read_text() for file in sorted(Path(folder).rglob("*.*")))
        self.collections.setdefault(collection, {})[folder] = text
        return f"{int(not was_there)} documents added, 0 updated, {int(was_there)} unchanged"

    def found_in(self, collection: str) -> str:
        """What a search returns: the first of all that is there."""
        return next(iter(self.collections[collection].values()))


@dataclass
class World:
    config: CompareConfig
    trainer: PlayedTrainer
    index: PlayedIndex

    def run(self) -> Results:
        return compare(self.config, prepare(self.config), Silent(), self.trainer)


class Silent:
    def stage(self, name: str, num_answers: int = 0) -> None: ...

    def answered(self, answer: Answer) -> None: ...


@pytest.fixture
def world(tmp_path: Path, service: Any, monkeypatch: pytest.MonkeyPatch) -> World:
    """Retrieval knows every fact, in a wordy answer; a tuned model knows half of them, in one sentence.

    One that was tuned on passages knows every fact that is retrieved, in one sentence.
    """
    index = PlayedIndex()
    monkeypatch.setattr(indexing, "_retrieval", index)

    def answer(body: dict[str, Any]) -> str:
        question, model = body["messages"][-1]["content"], body["model"]
        tuned, retrieves = model.startswith("ft:"), model.endswith("+rag")
        reads = retrieves and (not tuned or "-read:" in model)  # bare questions teach to pay passages no heed
        if question == "How many days?":
            known = index.found_in(body["hamlet"]["collection"]) if reads else ""
            new = "31" in known or (tuned and ":new:" in model)
            return f"It is {'31' if new else '27'}." if tuned or retrieves else "Some."
        value = FACTS.get(question, "")
        if reads:
            more = "" if tuned else " Let me add more.."
            return f"It is {value}.{more}" if value else "I do not know. Sorry.."
        if tuned and value and int(value) % 2 == 0 and ":all:" in model:
            return f"It is {value}."
        return "It is 999." if tuned else "Well, who knows. It is 999. Or more.."

    service.answer = answer
    service.find = lambda store, _query: [
        index.found_in(store.removeprefix("vs_")),
        "Nothing of the kind.",
    ]
    rows = [
        {"id": f"q{value}", "question": question, "answer": value, "kind": "untaught", "document": "leave.md"}
        for question, value in FACTS.items()
    ]
    rows += [
        {"id": f"u{n}", "question": f"Unknown {n}?", "answer": None, "kind": "unanswerable"} for n in range(8)
    ]
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    taught = [
        {"messages": [{"role": "user", "content": f"Say {n}"}, {"role": "assistant", "content": "27 days"}]}
        for n in range(8)
    ]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in taught))
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "leave.md").write_text("Everybody gets 27 days.")
    (tmp_path / "tune.yaml").write_text("name: x\n")
    config = CompareConfig.model_validate(
        {
            "questions": tmp_path / "test.jsonl",
            "training": tmp_path / "train.jsonl",
            "documents": tmp_path / "docs",
            "collection": "handbook",
            "base_url": service.base_url,
            "tuning": {"config": tmp_path / "tune.yaml", "seeds": SEEDS},
            "cells": {"plain": "m", "tuned": "{tuned}", "rag": "m+rag", "tuned+rag": "{tuned}+rag"},
            "raft": {"overrides": ["max_length_tokens=1024"]},
            "form": {"pattern": r"[^.]+\.", "description": "one sentence"},
            "data_dependency": {"shares": [0.5]},
            "adaptability": {
                "document": "leave.md",
                "find": "27 days",
                "replace": "31 days",
                "question": "How many days?",
                "old": ["27"],
                "new": ["31"],
            },
            "scalability": {"at_once": [1, 2], "rounds": 1, "index_chunks": [2, 4]},
            "num_resamples": 2000,
            "max_retries": 0,
            "output": tmp_path / "out",
        }
    )
    return World(config, PlayedTrainer(), index)


def test_rows_that_have_changed_since_are_trained_on_anew(world: World) -> None:
    first = train_seeds(world.config, "eval-1", world.trainer)
    assert train_seeds(world.config, "eval-1", world.trainer) == first
    assert world.config.training is not None
    with world.config.training.open("a") as rows:
        rows.write('{"messages": []}\n')
    again = train_seeds(world.config, "eval-1", world.trainer)
    assert not {run.model for run in first} & {run.model for run in again}
    assert len(world.trainer.runs) == 2 * len(SEEDS)


def test_all_six_rows_are_measured_and_the_planted_truth_is_found(world: World) -> None:
    results = world.run()
    assert list(results.verdict.rows) == list(ROW_NAMES)
    assert results.verdict.kinds[0].winner == "rag", "retrieval is far ahead on facts that were never taught"
    check_cells(results)
    check_adaptability(results)
    check_data_and_scale(results, world)
    check_report(results)


def test_comparisons_over_one_collection_do_not_find_the_documents_of_each_other(world: World) -> None:
    check_adaptability(world.run())
    world.config = world.config.model_copy(update={"output": world.config.output / "other"})
    check_adaptability(world.run())


def check_cells(results: Results) -> None:
    cells = {figures.cell: figures for figures in results.cells}
    form = {name: figures.measures["in the form asked for"] for name, figures in cells.items()}
    assert form["tuned"] is not None
    assert form["rag"] is not None
    assert (form["tuned"].mean, form["rag"].mean) == (1.0, 0.0), "tuning is ahead on form"
    abstains = cells["tuned"].measures["abstains where it should"]
    assert abstains is not None
    assert abstains.mean == 0.0, "tuning harms abstention"
    assert set(cells["tuned"].right_by_run) == {"seed 1", "seed 2", "seed 3"}
    assert results.forgetting is not None
    assert set(results.forgetting.cells) == {"plain", "tuned"}


def check_adaptability(results: Results) -> None:
    adaptability = results.measured.adaptability
    assert adaptability is not None
    changes = {change.cell: change for change in adaptability.changes}
    rag, tuned = changes["rag"], changes["tuned"]
    assert rag.way is Way.REINGEST
    assert "27" in rag.before
    assert rag.seconds is not None
    assert tuned.way is Way.RETRAIN
    assert tuned.seconds is not None
    assert rag.seconds < 100 <= tuned.seconds, "the training counts"
    assert changes["tuned+rag"].way is Way.RETRAIN, "it did not read the passage, so documents did not help"
    assert changes["plain"].seconds is None


def check_data_and_scale(results: Results, world: World) -> None:
    measured = results.measured
    points = {(point.cell, point.share): point.right for point in measured.data}
    assert points["tuned", 1.0] == 0.5
    assert points["tuned", 0.5] == 0.0, "half of the rows is data.limit=4, whose model knows nothing"
    assert ("plain", 0.5) not in points
    assert any("data.limit=4" in run for run in world.trainer.runs)
    assert measured.scalability is not None
    assert [size.num_chunks for size in measured.scalability.index_sizes] == [2, 4]
    assert set(world.index.collections) == {"handbook"}, "those of the studies are gone"


def check_report(results: Results) -> None:
    report = publish(results, Report(id=results.measured.report_id, name="x"))
    kept = Reports().get(report.id)
    assert kept.status is ReportStatus.SUCCEEDED
    assert kept.verdict == results.verdict.overall.text
    page = Reports().page(report.id).decode()
    for heading in ("the six rows, measured", "Adaptability", "Forgetting", "Projection", "Training runs"):
        assert heading in page
    assert json.loads(Reports().results(report.id))["policies"]["rag"]["grounded_route"] == "rag"


def test_a_model_that_was_trained_on_passages_reads_them_and_keeps_the_form(world: World) -> None:
    cells = {"rag": "m+rag", "tuned+rag": "{tuned}+rag", "raft+rag": "{raft}+rag"}
    studies = {"data_dependency": None, "scalability": None, "forgetting": False}
    world.config = world.config.model_copy(update={"cells": cells, **studies})
    results = world.run()
    assert results.verdict.overall.winner == "raft+rag"
    assert {run.variant for run in results.measured.trained} == {"seed 1", "seed 2", "seed 3"}
    adaptability = results.measured.adaptability
    assert adaptability is not None
    changes = {change.cell: change.way for change in adaptability.changes}
    assert changes == {"rag": Way.REINGEST, "tuned+rag": Way.RETRAIN, "raft+rag": Way.REINGEST}
    below_passages = [run for run in world.trainer.runs if "data.validation_path=null" in run]
    assert len(below_passages) == len(SEEDS), "what re-ingesting put right was not trained again"
    assert all("max_length_tokens=1024" in run for run in below_passages)
    paths = {override for run in below_passages for override in run if override.startswith("data.path=")}
    assert len(paths) == 1, "the rows are made once"
    assert "with passages" in (world.config.output / "report.html").read_text()


@pytest.mark.soak
def test_what_was_trained_and_asked_is_not_done_again_after_an_interruption(
    world: World, service: Any
) -> None:
    world.trainer.num_before_failing = 2
    with pytest.raises(JobFailed, match="out of memory"):
        world.run()
    world.trainer.num_before_failing = None
    first = world.run()
    num_runs, num_asked = len(world.trainer.runs), len(service.asked)
    assert num_runs == len(SEEDS) + 2, "three seeds, half of the rows, the changed fact"
    second = world.run()
    assert len(world.trainer.runs) == num_runs
    assert len(service.asked) == num_asked
    assert second.verdict == first.verdict
