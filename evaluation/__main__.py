"""`python -m evaluation`: compare ways to answer, put the best one behind `auto`, or guard the quality of one."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import orjson
import typer
from rich.console import Console

from cluster import cli
from cluster.api_keys import READ_SUFFIX, ApiKeys, Area
from cluster.errors import DataError, HamletError, NotFound
from cluster.registry import Registry
from cluster.reports import Report, Reports, ReportStatus
from cluster.router_policy import remove_policy, write_policy
from cluster.storage import local_copy
from cluster.tenants import DEFAULT_TENANT, require_tenant
from cluster.yaml_config import validated
from evaluation.answers import AnswerLog
from evaluation.asking import ask_all
from evaluation.compare import compare as run_comparison
from evaluation.compare import prepare, publish, requests_of
from evaluation.config import (
    CompareConfig,
    Maker,
    MakingConfig,
    ServiceConfig,
    load_config,
    quick_form,
)
from evaluation.indexing import passages_of
from evaluation.kept import write_whole
from evaluation.making import make_questions, require_enough
from evaluation.policy import chosen_policy, require_routes
from evaluation.questions import load_questions
from evaluation.report import percent
from evaluation.results import Measured, collect
from evaluation.summary import show
from evaluation.tuning import run_id_of
from evaluation.watching import ReportWatcher, TerminalWatcher

KEY_LIFE_S = 24 * 3600.0
# What `evaluation/asking.py` calls: chats, the list of models, and searches for the rows of {raft}.
KEY_SCOPES = (Area.INFERENCE, Area.VECTOR_STORES + READ_SUFFIX)

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="""Which way answers best: the plain model, the tuned one, the retrieving one, or both at once.

    Example:

        python -m evaluation compare examples/compare-handbook.yaml --quick
        python -m evaluation promote reports/handbook
    """,
)


@app.command()
def compare(
    config: Annotated[str, typer.Argument(help="YAML file or URI; see examples/compare-handbook.yaml.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Dotted overrides: concurrency=2 weights.inference_time=0.3")
    ] = None,
    quick: Annotated[
        bool,
        typer.Option(
            "--quick",
            help="One training, at most 12 questions of each kind, 16 in flight; shorter loads, no larger indexes, "
            "no data dependency, no re-training.",
        ),
    ] = False,
    report: Annotated[
        str | None, typer.Option(help="Id of a report that /v1/evaluations announced. Used by the service.")
    ] = None,
    project: Annotated[
        str, typer.Option(callback=require_tenant, help="Whose report it is, and whose key asks.")
    ] = DEFAULT_TENANT,
) -> None:
    """Train for each seed, ask every question of every cell, then write verdict and report.

    It asks a service that runs. The same command goes on after an
    interruption: what was trained and answered is not done again.

    Example: [bold]python -m evaluation compare examples/compare-handbook.yaml --quick[/]
    """
    loaded = load_config(local_copy(config), overrides or [])
    loaded = quick_form(loaded) if quick else loaded
    if report is not None:
        write_whole(loaded.output / "run-id", report.encode())
    with (
        _kept_report(loaded, project) as state,
        _own_key(state.tenant, loaded.api_key_env),
        TerminalWatcher() as terminal,
    ):
        questions = prepare(loaded)
        watcher = ReportWatcher(state, terminal)
        results = run_comparison(loaded, questions, watcher)
        publish(results, watcher.report)
    show(results, Console(highlight=False, width=None if sys.stdout.isatty() else 110))


@app.command()
def promote(
    source: Annotated[str, typer.Argument(help="Output folder of a comparison, or the id of a report.")],
    cell: Annotated[str | None, typer.Option(help="Promote this cell in place of the winner.")] = None,
    route_model: Annotated[
        str | None,
        typer.Option(help="Registered classifier of routes that decides in place of the similarity."),
    ] = None,
) -> None:
    """Put the winner behind `auto`: every router takes its route within a second, without a restart.

    Example: [bold]python -m evaluation promote reports/handbook[/]
    """
    results = _results_of(source)
    try:
        name, policy = chosen_policy(orjson.loads(results), cell)
    except (ValueError, KeyError, TypeError) as exc:
        raise DataError(
            f"the results.json of {source} is none of a comparison of this version; compare again"
        ) from exc
    if policy.tuned_model is not None:
        Registry().get(policy.tuned_model)  # it may be deleted since
    if route_model is not None:
        card = Registry().get(route_model)
        require_routes(card)
        policy = policy.model_copy(update={"route_model": card.id})
    before = write_policy(policy)
    tuned = f" with {policy.tuned_model}" if policy.tuned_model else ""
    typer.echo(
        f"auto now takes the route {policy.grounded_route}{tuned} from a similarity of "
        f"{policy.score_threshold:.2f} on (cell {name}, report {policy.report})"
    )
    if policy.route_model:
        typer.echo(f"{policy.route_model} decides; the similarity counts where it cannot be asked")
    if before is not None:
        typer.echo(f"before: {before.grounded_route} from {before.score_threshold:.2f} on ({before.report})")


def _results_of(source: str) -> bytes:
    path = Path(source) / "results.json"
    if path.exists():
        return path.read_bytes()
    try:
        return Reports().results(source)
    except NotFound as exc:
        raise NotFound(f"{source} is no folder with the results.json of a comparison, and {exc}") from exc


@app.command()
def demote() -> None:
    """Take the promoted policy away: `auto` goes by the deployment's own configuration again.

    Example: [bold]python -m evaluation demote[/]
    """
    remove_policy()
    typer.echo("auto goes by router.grounded_route and router.score_threshold of the deployment")


@app.command()
def score(
    model: Annotated[str, typer.Option(help="Model name as asked over HTTP, such as smollm2+rag.")],
    questions: Annotated[Path, typer.Option(help="JSONL of questions; see examples/handbook/README.md.")],
    min_accuracy: Annotated[
        float | None, typer.Option(min=0, max=1, help="Exit with 1 when fewer answers are right.")
    ] = None,
    base_url: Annotated[str, typer.Option(help="OpenAI-compatible endpoint.")] = "http://127.0.0.1:8000/v1",
    concurrency: Annotated[int, typer.Option(min=1, max=256, help="Questions in flight.")] = 4,
    max_tokens: Annotated[int, typer.Option(min=1, help="Answer length in tokens.")] = 48,
) -> None:
    """Score one model or route, for a check in CI.

    Example: [bold]python -m evaluation score --model smollm2+rag --questions test.jsonl --min-accuracy 0.6[/]
    """
    with tempfile.TemporaryDirectory() as folder:
        given = {"base_url": base_url, "concurrency": concurrency, "max_tokens": max_tokens}
        config = validated(
            CompareConfig, {"questions": questions, "cells": {"model": model}, "output": folder, **given}
        )
        asked = prepare(config)
        requests = requests_of(config, asked)
        with (
            _own_key(DEFAULT_TENANT),
            TerminalWatcher() as watcher,
            AnswerLog(config.output / "answers.jsonl") as log,
        ):
            watcher.stage("asking", len(requests))
            answers = ask_all(config, requests, log, watcher.answered)
    results = collect(config, Measured(asked, answers), datetime.now(UTC))
    for ruling in results.verdict.kinds:
        typer.echo(f"{ruling.about:14} {percent(ruling.cells['model'])} of {ruling.num_questions}")
    right = results.cells[0].measures["right"]
    assert right is not None  # every question is right or wrong
    typer.echo(f"{'all':14} {percent(right)} of {len(asked)}")
    if min_accuracy is not None and right.mean < min_accuracy:
        typer.echo(
            f"{model} is right on {right.mean:.3f} of the questions, below {min_accuracy:.3f}", err=True
        )
        raise typer.Exit(1)


@app.command(name="questions")
def make(
    documents: Annotated[Path, typer.Argument(help="Folder of documents, in any format that is ingested.")],
    out: Annotated[
        Path, typer.Option(dir_okay=False, help="JSONL of chats to write; replies are kept beside it.")
    ],
    maker: Annotated[
        Maker, typer.Option(help="Who makes them: a model, or gaps, a rule without one.")
    ] = Maker.MODEL,
    model: Annotated[
        str | None, typer.Option(help="Model that is asked; by default the first one listed, the base.")
    ] = None,
    base_url: Annotated[
        str, typer.Option(help="OpenAI-compatible endpoint, of a teacher model for example.")
    ] = "http://127.0.0.1:8000/v1",
    api_key_env: Annotated[
        str, typer.Option(help="Environment variable with the key of that endpoint.")
    ] = "OPENAI_API_KEY",
    per_passage: Annotated[int, typer.Option(min=1, max=20, help="Questions for each passage.")] = 3,
    held_out: Annotated[
        float, typer.Option(min=0, max=0.99, help="Share of the documents that no question is made from.")
    ] = 0.0,
    min_pairs: Annotated[int, typer.Option(min=1, help="Exit with 2 when fewer are kept.")] = 24,
    tests: Annotated[
        Path | None, typer.Option(help="JSONL of test questions; none that asks the same is kept.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the requests, and of the order of rows.")] = 0,
    concurrency: Annotated[int, typer.Option(min=1, max=256, help="Passages in flight.")] = 4,
) -> None:
    """Make training questions from documents, to look at, correct and train on.

    Only pairs whose answer stands in the passage and that pass every check are kept (docs/evaluation.md).

    Example: [bold]python -m evaluation questions examples/handbook/docs --out chat.jsonl --maker gaps[/]
    """
    kept = {"per_passage": per_passage, "held_out": held_out, "min_pairs": min_pairs}
    making = validated(MakingConfig, {"maker": maker, "model": model, **kept})
    asked = [question.question for question in load_questions(tests)] if tests else []
    service = validated(
        ServiceConfig, {"base_url": base_url, "api_key_env": api_key_env, "concurrency": concurrency}
    )
    # A teacher elsewhere never sees a key of ours.
    asks_ours = maker is Maker.MODEL and base_url == ServiceConfig().base_url
    with _own_key(DEFAULT_TENANT) if asks_ours else nullcontext(), TerminalWatcher() as watcher:
        watcher.stage("cutting documents")
        passages = passages_of(documents)
        made = make_questions(making, service, passages, asked, seed, out, watcher)
    require_enough(made, min_pairs, out)
    typer.echo(f"{made.text} They are in {out}.")


@contextmanager
def _own_key(tenant: str, variable: str = "OPENAI_API_KEY") -> Iterator[None]:
    """A key of this tenant while the questions are asked, where the service asks for keys and none is given."""
    keys = ApiKeys()
    if not variable or variable in os.environ or not keys.list():  # without a name none is sent
        yield
        return
    key, secret = keys.create(tenant, KEY_SCOPES, "evaluation", KEY_LIFE_S)
    os.environ[variable] = secret
    try:
        yield
    finally:
        del os.environ[variable]
        keys.revoke(key.id)


@contextmanager
def _kept_report(config: CompareConfig, tenant: str) -> Iterator[Report]:
    """The state of this comparison's report; a fault on the way is written into it too."""
    reports, report_id = Reports(), run_id_of(config.output)
    announced = reports.find(report_id, tenant) or Report(id=report_id, tenant=tenant, name=config.name)
    state = announced.model_copy(update={"error": None})
    try:
        yield state
    except (KeyboardInterrupt, Exception) as exc:  # whatever it was, nobody must wait for this report
        error = str(exc) if isinstance(exc, HamletError) else f"{type(exc).__name__}: {exc}"
        if isinstance(exc, KeyboardInterrupt):
            error = "interrupted; the same command goes on from here"
        reports.save(state.model_copy(update={"status": ReportStatus.FAILED, "error": error}))
        raise


if __name__ == "__main__":
    cli.run(app)
