"""What a process says last, which is mostly why it ended."""

from __future__ import annotations


def last_line(text: str, default: str) -> str:
    """The last line that says something, without the space around it; `default` where none does.

    >>> last_line("Traceback:\\n  ValueError: no such port \\n\\n", "it said nothing")
    'ValueError: no such port'
    """
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), default)
