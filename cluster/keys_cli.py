"""`python -m cluster keys` and `python -m cluster audit`."""

from __future__ import annotations

import getpass
import json
import re
import time
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from cluster.api_keys import DEFAULT_SCOPES, SCOPES, ApiKey, ApiKeys
from cluster.audit_log import AuditEvent, AuditLog
from cluster.errors import InvalidInput
from cluster.tenants import DEFAULT_TENANT

keys = typer.Typer(
    no_args_is_help=True,
    help="API keys and the projects they belong to: create, list, rotate, revoke. As long as none was ever "
    "made, the HTTP API asks for none and answers 127.0.0.1 only.",
)
console = Console(soft_wrap=True, highlight=False)

_DURATION = re.compile(r"(\d{1,12})\s*([smhdw])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}
_LONGEST_S = 100 * 365 * 86_400  # dates end with the year 9999

KeyArgument = Annotated[str, typer.Argument(help="Id of the key, key_…; see keys list.")]


@keys.command()
def create(
    project: Annotated[
        str, typer.Option(help="Whose files, jobs, models and documents it opens.")
    ] = DEFAULT_TENANT,
    scope: Annotated[
        list[str] | None,
        typer.Option(help=f"May be repeated: {', '.join(SCOPES)}. By default all but admin."),
    ] = None,
    expires: Annotated[
        str | None, typer.Option(help="Lifetime: 90d, 12h, 30m. By default without end.")
    ] = None,
    name: Annotated[str, typer.Option(help="Your note of what it is for.")] = "",
) -> None:
    """Make a key. Its secret is printed once, alone on stdout, and kept nowhere.

    Example: [bold]export OPENAI_API_KEY=$(python -m cluster keys create --project docs-team --expires 90d)[/]
    """
    lifetime_s = None if expires is None else duration_s(expires, "expires")
    if lifetime_s == 0:
        raise InvalidInput(
            f"--expires {expires} is a key that never works; leave it out for one that never ends"
        )
    key, secret = ApiKeys().create(project, scope or DEFAULT_SCOPES, name, lifetime_s)
    _record("keys create", key)
    _show_secret(key, secret)


@keys.command("list")
def list_(
    project: Annotated[str | None, typer.Option(help="Only keys of this project.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print them as JSON.")] = False,
) -> None:
    """All keys, oldest first, by the last characters of their secrets.

    Example: [bold]python -m cluster keys list --project docs-team[/]
    """
    found = ApiKeys().list(project)
    if as_json:
        shown = [{k: v for k, v in asdict(key).items() if k != "secret_sha256"} for key in found]
        typer.echo(json.dumps(shown, indent=2))
        return
    table = _table("Key", "Ends in", "Project", "Scopes", "Name", "Created", "State")
    table.columns[0].no_wrap = True
    now = time.time()
    for key in found:
        created = _time(key.created_at)
        table.add_row(
            key.id, key.hint, key.tenant, ", ".join(key.scopes), key.name, created, _state(key, now)
        )
    if found:
        console.print(table)
    elif project is not None:
        console.print(f"Project {project} has no keys.", markup=False)
    else:
        console.print("There are no keys: the API asks for none and answers 127.0.0.1 only.")


@keys.command()
def rotate(
    key_id: KeyArgument,
    grace: Annotated[str, typer.Option(help="How long the old secret still works: 24h, 15m, 0s.")] = "24h",
) -> None:
    """Make a key that takes the place of another. The new secret is printed once.

    Example: [bold]python -m cluster keys rotate key_1f2e3d4c5b6a7988 --grace 1h[/]
    """
    key, secret = ApiKeys().rotate(key_id, duration_s(grace, "grace"))
    _record("keys rotate", key)
    _show_secret(key, secret)


@keys.command()
def revoke(key_id: KeyArgument) -> None:
    """End a key for good. It is refused within a second.

    Example: [bold]python -m cluster keys revoke key_1f2e3d4c5b6a7988[/]
    """
    key = ApiKeys().revoke(key_id)
    _record("keys revoke", key)
    console.print(f"{key.id} of project {key.tenant} is revoked.", markup=False)


def audit(
    project: Annotated[str | None, typer.Option(help="Only calls of this project.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="How many, the newest first.")] = 50,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object a line.")] = False,
) -> None:
    """The audit log: which key made which state-changing call on what.

    Example: [bold]python -m cluster audit --project docs-team --limit 20[/]
    """
    events = AuditLog().newest(limit, project)
    if as_json:
        for event in events:
            typer.echo(json.dumps(asdict(event)))
        return
    table = _table("When", "Project", "Who", "What", "Object", "Status")
    for event in events:
        row = (event.tenant, event.actor, event.action, event.object_id, str(event.status))
        table.add_row(_time(event.at), *row)
    if events:
        console.print(table)
    else:
        whose = "" if project is None else f" in project {project}"
        console.print(f"Nothing has been done yet{whose}.", markup=False)


def duration_s(text: str, param: str) -> float:
    """Seconds of `90d`, `12h`, `30m`, `10s` or `2w`. Raises InvalidInput.

    >>> duration_s("12h", "expires")
    43200.0
    """
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise InvalidInput(f"--{param} {text!r} is no duration; write 90d, 12h or 30m", param)
    seconds = int(match[1]) * _SECONDS[match[2]]
    if seconds > _LONGEST_S:
        raise InvalidInput(f"--{param} {text!r} is more than 100 years; write less, or leave it out", param)
    return float(seconds)


def _show_secret(key: ApiKey, secret: str) -> None:
    expiry = "never" if key.expires_at is None else _time(key.expires_at)
    # The secret alone on stdout, so that a shell can take it; all else beside it.
    note = f"{key.id} of project {key.tenant}; scopes {', '.join(key.scopes)}; expires: {expiry}"
    typer.echo(f"{note}\nKeep this secret now, it is not shown again:", err=True)
    typer.echo(secret)


def _record(action: str, key: ApiKey) -> None:
    AuditLog().add(
        AuditEvent(tenant=key.tenant, actor=f"command line: {_user()}", action=action, object_id=key.id)
    )


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"  # a container's user need not have a name


def _state(key: ApiKey, now: float) -> str:
    if key.revoked_at is not None:
        return f"revoked {_time(key.revoked_at)}"
    if key.expires_at is None:
        return "valid"
    return f"{'valid until' if key.is_valid(now) else 'expired'} {_time(key.expires_at)}"


def _table(*headings: str) -> Table:
    table = Table(box=None, pad_edge=False)
    for heading in headings:
        table.add_column(heading, overflow="fold")  # ids are there to be copied: never cut
    return table


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")
