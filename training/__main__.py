"""`python -m training`: fine-tune models from a YAML file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from cluster import cli
from cluster.connection import prepare_client
from training.config import load_config

app = typer.Typer(
    help="Fine-tune models: `python -m training run examples/bert-paraphrase.yaml epochs=1`.",
    no_args_is_help=True,
)

ConfigFile = Annotated[Path, typer.Argument(help="YAML file; see examples/*.yaml.")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(help="Dotted overrides: epochs=1 data.path=rows.tsv scaling.num_workers=2"),
]


@app.callback()
def main() -> None:
    """Fine-tune models on the cluster."""


@app.command()
def run(config: ConfigFile, overrides: Overrides = None) -> None:
    """Train, check and register one model.

    Locally or as a job: `ray job submit --working-dir . -- python -m training run CONFIG.yaml`.
    """
    loaded = load_config(config, overrides or [])
    # Ray reads its environment when it is imported. Late also because importing it and torch takes
    # seconds that a faulty config need not wait for.
    os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
    prepare_client()
    from training.run import run as run_training

    run_training(loaded)


if __name__ == "__main__":
    cli.run(app)
