"""What a process says last, which is mostly why it ended."""

from __future__ import annotations

from pathlib import Path

TAIL_BYTES = 4000


def last_line(text: str, default: str) -> str:
    """The last line that says something, without the space around it; `default` where none does.

    >>> last_line("Traceback:\\n  ValueError: no such port \\n\\n", "it said nothing")
    'ValueError: no such port'
    """
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), default)


def last_line_of(log: Path, default: str) -> str:
    """The last line of a file that says something, read from its end; `default` where there is none."""
    try:
        with log.open("rb") as file:
            file.seek(max(log.stat().st_size - TAIL_BYTES, 0))
            return last_line(file.read().decode("utf-8", "replace"), default)
    except OSError:
        return default
