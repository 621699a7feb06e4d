"""`python -m training`: fine-tune models from a YAML file."""

from __future__ import annotations

import os
import secrets
from contextlib import AbstractContextManager, nullcontext
from typing import Annotated

import typer

from cluster import cli
from cluster.connection import prepare_client, require_address
from cluster.storage import local_copy
from training import data_commands
from training.config import load_config
from training.data_commands import ConfigFile, Overrides

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="""Data to a tuned model: check a file, price a run, train.

    Example:

        python -m training validate rows.jsonl
        python -m training plan examples/smollm2-handbook.yaml data.path=rows.jsonl
        python -m training run examples/smollm2-handbook.yaml data.path=rows.jsonl
    """,
)

# As a shell has it of a process that ended by SIGTERM: 128 + 15.
PAUSED = 143


@app.command()
def run(
    config: ConfigFile,
    overrides: Overrides = None,
    run: Annotated[str | None, typer.Option(help="Name of the run; refused when it was used before.")] = None,
    resume: Annotated[
        str | None, typer.Option(help="Go on with this run from its newest checkpoint.")
    ] = None,
    job: Annotated[
        str | None,
        typer.Option(help="Work on this fine-tuning job: begin it, or go on with it. Used by the service."),
    ] = None,
) -> None:
    """Train, check and register one model.

    It needs a Ray head (python -m cluster up), or is sent to one: ray job submit --working-dir . -- python -m
    training run CONFIG.yaml. Ended by SIGTERM it saves a checkpoint first; --resume goes on from the newest one.

    Example: [bold]python -m training run examples/bert-paraphrase.yaml epochs=1[/]
    """
    if sum(name is not None for name in (run, resume, job)) > 1:
        raise typer.BadParameter("give only one of --run, --resume and --job")
    paused = ""
    with _job_failure_recorded(job):
        loaded = load_config(local_copy(config), overrides or [])
        # Ray reads its environment when it is imported. Late also because importing it and torch takes
        # seconds that a faulty config, or a cluster that is not there, need not wait for.
        require_address()
        os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
        prepare_client()
        from training.run import RunPaused, identity_of
        from training.run import run as run_training

        try:
            run_training(loaded, identity_of(loaded, job=job, run_name=run, resume=resume))
        except RunPaused as exc:
            paused = str(exc)
    if paused:
        typer.echo(paused)
        raise typer.Exit(PAUSED)


app.command()(data_commands.validate)
app.command()(data_commands.plan)


@app.command()
def sweep(
    config: ConfigFile,
    overrides: Overrides = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Stop each trial after this many steps.")] = None,
    keep_best: Annotated[
        bool, typer.Option(help="Train the best combination once more, and register it.")
    ] = False,
) -> None:
    """Run every combination of some values side by side: a table, and learning curves as a picture.

    Values are joined by commas. Nothing is registered without --keep-best.

    Example: [bold]python -m training sweep examples/bert-paraphrase.yaml learning_rate=0.1,0.01 --steps 50[/]
    """
    require_address()
    os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
    prepare_client()
    from training.run import RunPaused
    from training.run_folder import RunFolder
    from training.sweep import say, trials_of
    from training.sweep import sweep as run_sweep

    trials = trials_of(local_copy(config), overrides or [], steps)
    name = f"{trials[0].config.name}-sweep-{secrets.token_hex(4)}"
    try:
        outcomes = run_sweep(trials, name, keep_best=keep_best)
    except RunPaused as exc:  # the run of the best combination
        typer.echo(f"{exc}")
        raise typer.Exit(PAUSED) from exc
    say(outcomes, RunFolder(name).path)


def _job_failure_recorded(job: str | None) -> AbstractContextManager[None]:
    if job is None:
        return nullcontext()
    from cluster.fine_tuning_jobs import FineTuningJobs
    from training.job_record import failure_recorded

    return failure_recorded(job, FineTuningJobs())


if __name__ == "__main__":
    cli.run(app)
