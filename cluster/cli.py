"""How every command line of ours starts and ends: logging, exit codes, one-line errors.

Exit codes: 0 done, 1 a check or job failed, 2 the caller can put it right (bad input, a part that is
down), 130 interrupted. A traceback therefore always means a fault of ours.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import NoReturn

import typer

from cluster.errors import HamletError, InvalidInput
from cluster.logs import environment_secrets, redact
from cluster.process import set_up_process


def run(app: typer.Typer) -> None:
    """Run a command line and leave the process with its exit code.

    A HamletError becomes one line on stderr, `error: <message>`, and exit code 2.
    """
    try:
        set_up_process()
        _check_arguments(sys.argv[1:])
        app()
    except HamletError as exc:
        _fail(str(exc))
    except KeyboardInterrupt:
        sys.exit(130)


def _check_arguments(arguments: Sequence[str]) -> None:
    """Refuse what no command can use: an empty path is this folder, and other bytes fit no database or JSON."""
    for argument in arguments:
        if not argument:
            raise InvalidInput(
                "an argument is empty; set the shell variable that it comes from, or leave it out"
            )
        try:
            argument.encode()
        except UnicodeEncodeError as exc:
            raise InvalidInput(
                f"the argument {argument!r} is not UTF-8; rename the file, or correct it"
            ) from exc


def _fail(message: str) -> NoReturn:
    line = " ".join(message.split())
    typer.echo(f"error: {redact(line, environment_secrets())}", err=True)
    sys.exit(2)
