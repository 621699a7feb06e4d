"""A fact changes: how long until each cell answers rightly, and what it answers meanwhile."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from enum import StrEnum
from pathlib import Path

from pydantic import Field

from cluster.errors import DataError
from cluster.json_lines import read_rows
from evaluation.asking import ask_again, cell_request
from evaluation.config import AdaptabilityConfig, CompareConfig, retrieves
from evaluation.indexing import ingest, study_collection
from evaluation.kept import Kept
from evaluation.metrics import contains_answer
from evaluation.questions import Kind, Question
from evaluation.tuning import TrainedModel, Trainer, named, runs_of, train_all

# Answers are greedy: what is wrong this often after the change is there stays wrong.
MAX_WRONG_AFTER = 2
# Asking without a pause would take the cores from the ingestion that is timed.
ASK_EVERY_S = 1.0


class Way(StrEnum):
    REINGEST = "re-ingested"
    RETRAIN = "re-trained"
    NONE = "cannot learn it"
    NOT_TRIED = "re-training not tried"


class Told(StrEnum):
    """What an answer says about the fact."""

    NEW = "new"
    OLD = "old"
    OTHER = "neither"


class Change(Kept):
    """What one cell did with the change. `seconds` is None when it never gave the new answer."""

    cell: str
    way: Way
    seconds: float | None
    before: str  # the answer before the change
    after: str  # the last answer
    meanwhile: dict[Told, int] = Field({})  # answers between the change and the first right one


class Adaptability(Kept):
    changes: tuple[Change, ...]
    ingest_s: float

    @property
    def seconds(self) -> dict[str, float | None]:
        return {change.cell: change.seconds for change in self.changes}

    @property
    def is_whole(self) -> bool:
        """Whether every way that a cell has was tried."""
        return all(change.way is not Way.NOT_TRIED for change in self.changes)


def told(text: str, old: Sequence[str], new: Sequence[str]) -> Told:
    """("You get 31 days.", ["27"], ["31"]) -> NEW; naming both is neither."""
    has_new, has_old = contains_answer(text, new), contains_answer(text, old)
    if has_new == has_old:
        return Told.OTHER
    return Told.NEW if has_new else Told.OLD


def check_change(config: CompareConfig) -> None:
    """Raise DataError unless the document states the fact, and the training rows where they are changed too."""
    change = config.adaptability
    if change is None:
        return
    assert config.documents is not None
    _text_of(config.documents / change.document, change)
    if change.retrain and config.tuned_cells and config.training is not None:
        _changed_rows(config.training, change)


def measure_adaptability(
    config: CompareConfig, trained: Sequence[TrainedModel], run_id: str, trainer: Trainer
) -> Adaptability:
    """Change the fact in a copy of the documents, ingest it again, and train again where that is asked for."""
    change = config.adaptability
    assert change is not None
    assert config.documents is not None
    folder = config.output / "changed-documents"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(config.documents, folder)
    # The first run of each model stands for all of them.
    names = {cell: named(model, trained)[0][1] for cell, model in config.cells.items()}
    with study_collection(run_id, "changed", folder) as collection:
        before = {cell: _ask(config, change, cell, name, collection) for cell, name in names.items()}
        _edit(folder / change.document, change)
        ingest_s, changes = _watch(config, change, before, names, folder, collection)
        if change.retrain and config.tuned_cells:
            changes |= _retrained(config, change, changes, collection, run_id, trainer)
    return Adaptability(changes=tuple(changes[cell] for cell in config.cells), ingest_s=ingest_s)


def _watch(
    config: CompareConfig,
    change: AdaptabilityConfig,
    before: Mapping[str, str],
    names: Mapping[str, str],
    folder: Path,
    collection: str,
) -> tuple[float, dict[str, Change]]:
    """Ingest the changed folder, and go on asking the cells that retrieve until they know."""
    started = time.monotonic()
    changes = {
        cell: Change(
            cell=cell, way=_way(config, cell, name), seconds=None, before=before[cell], after=before[cell]
        )
        for cell, name in names.items()
    }
    searching = {cell: found for cell, found in changes.items() if found.way is Way.REINGEST}
    with ThreadPoolExecutor(1) as pool:
        ingesting = pool.submit(ingest, folder, collection)
        changes |= _until_new(
            lambda cell: _ask(config, change, cell, names[cell], collection),
            ingesting.done,
            change,
            searching,
            started,
        )
    return ingesting.result().seconds, changes


def _way(config: CompareConfig, cell: str, name: str) -> Way:
    """How a cell can learn of the change by ingesting alone."""
    if retrieves(name):
        return Way.REINGEST
    return Way.NOT_TRIED if cell in config.tuned_cells else Way.NONE


def _until_new(
    ask: Callable[[str], str],
    is_changed: Callable[[], bool],
    change: AdaptabilityConfig,
    searching: Mapping[str, Change],
    started: float,
) -> dict[str, Change]:
    """Ask every cell that is not done, round by round, so that no cell's time holds the wait for another."""
    done: dict[str, Change] = {}
    meanwhile: dict[str, dict[Told, int]] = {cell: {} for cell in searching}
    num_wrong_after = dict.fromkeys(searching, 0)
    while len(done) < len(searching):
        for cell in [cell for cell in searching if cell not in done]:
            was_changed = is_changed()
            text = ask(cell)
            what = told(text, change.old, change.new)
            if what is Told.NEW or num_wrong_after[cell] == MAX_WRONG_AFTER:
                seconds = time.monotonic() - started if what is Told.NEW else None
                update = {"seconds": seconds, "after": text, "meanwhile": meanwhile[cell]}
                done[cell] = searching[cell].model_copy(update=update)
            else:
                meanwhile[cell][what] = meanwhile[cell].get(what, 0) + 1
                num_wrong_after[cell] += was_changed
        if len(done) < len(searching):
            time.sleep(ASK_EVERY_S)
    return done


def _retrained(
    config: CompareConfig,
    change: AdaptabilityConfig,
    changes: Mapping[str, Change],
    collection: str,
    run_id: str,
    trainer: Trainer,
) -> dict[str, Change]:
    """Tuned cells that re-ingesting alone did not put right, asked with a model trained on the changed rows."""
    assert config.tuning is not None
    wrong = {cell: model for cell, model in config.tuned_cells.items() if changes[cell].seconds is None}
    if not wrong:
        return {}
    rows = (config.output / "changed-training.jsonl").resolve()
    num_changed = _write_changed_rows(config, change, rows)
    variant, seed = f"changed fact, {num_changed} rows", config.tuning.seeds[0]
    trained = train_all(
        config.model_copy(update={"cells": wrong}), run_id, variant, seed, (), trainer, rows, collection
    )
    found = {}
    for cell, model in wrong.items():
        (run,) = runs_of(model, trained)
        started = time.monotonic()
        text = _ask(config, change, cell, run.name_in(model), collection)
        seconds = run.seconds + time.monotonic() - started
        is_new = told(text, change.old, change.new) is Told.NEW
        update = {"way": Way.RETRAIN, "seconds": seconds if is_new else None, "after": text}
        found[cell] = changes[cell].model_copy(update=update)
    return found


def _write_changed_rows(config: CompareConfig, change: AdaptabilityConfig, target: Path) -> int:
    assert config.training is not None
    changed, num_changed = _changed_rows(config.training, change)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text("\n".join(changed), encoding="utf-8")
    return num_changed


def _changed_rows(training: Path, change: AdaptabilityConfig) -> tuple[list[str], int]:
    """All lines of the rows with the new fact, and how many of them are changed."""
    # Written anew in one spelling, so that neither quotes nor \\u escapes keep the fact from being found.
    lines = [json.dumps(row, ensure_ascii=False) for _, row in read_rows(training)]
    find, replace = (json.dumps(text, ensure_ascii=False)[1:-1] for text in (change.find, change.replace))
    changed = [line.replace(find, replace) for line in lines]
    num_changed = sum(a != b for a, b in zip(lines, changed, strict=True))
    if not num_changed:
        raise DataError(
            f"no row of {training} holds {change.find!r}, so re-training cannot teach its change; set "
            "adaptability.retrain to false, or change a fact that the rows state in these words",
            "adaptability.find",
        )
    return changed, num_changed


def _edit(path: Path, change: AdaptabilityConfig) -> None:
    path.write_text(_text_of(path, change).replace(change.find, change.replace), encoding="utf-8")


def _text_of(path: Path, change: AdaptabilityConfig) -> str:
    remedy = "name a text document below `documents` and words of it, or leave adaptability out"
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as exc:
        raise DataError(f"cannot read {path}: {exc.strerror}; {remedy}", "adaptability.document") from exc
    except UnicodeDecodeError as exc:
        raise DataError(f"{path} is not UTF-8 text; {remedy}", "adaptability.document") from exc
    if change.find not in text:
        raise DataError(f"{path} does not hold {change.find!r}; {remedy}", "adaptability.find")
    return text


def _ask(config: CompareConfig, change: AdaptabilityConfig, cell: str, model: str, collection: str) -> str:
    question = Question(id="changed-fact", question=change.question, kind=Kind.TAUGHT, answer=change.new[0])
    request = cell_request(config, cell, model, question, collection)
    return ask_again(config, [request], at_once=1)[0].text
