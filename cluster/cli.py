"""How every command line of ours starts and ends: logging, exit codes, one-line errors.

Exit codes: 0 done, 1 a check or job failed, 2 the caller can put it right (bad input, a part that is
down), 130 interrupted. A traceback therefore always means a fault of ours.
"""

from __future__ import annotations

import sys
from typing import NoReturn

import typer

from cluster.errors import HamletError
from cluster.logs import environment_secrets, redact, set_up_logging
from cluster.settings import settings


def run(app: typer.Typer) -> None:
    """Run a command line and leave the process with its exit code.

    A HamletError becomes one line on stderr, `error: <message>`, and exit code 2.
    """
    try:
        set_up_logging(settings().log_level)
        app()
    except HamletError as exc:
        _fail(str(exc))
    except KeyboardInterrupt:
        sys.exit(130)


def _fail(message: str) -> NoReturn:
    line = " ".join(message.split())
    typer.echo(f"error: {redact(line, environment_secrets())}", err=True)
    sys.exit(2)
