"""Logging of every process of ours: one line per event on stderr, and no secret in any of them.

Our loggers are named after the packages and follow HAMLET_LOG_LEVEL; everyone else's show warnings only.
"""

from __future__ import annotations

import logging
import os
import re
import sys

PACKAGES = ("cluster", "training", "retrieval", "serving", "evaluation")

HIDDEN = "***"

# Environment variables whose values are secrets, whatever they look like.
_SECRET_NAME = re.compile(r"(?:^|_)(?:token|api_?key|secret|password|secret_access_key)$", re.IGNORECASE)

# Callers' paths come through here, so no alternative begins with a repeat: from every letter on it would read the
# whole of a long word again.
_SECRET_TEXT = re.compile(
    r"""
    (?P<bearer>\bbearer\s+)[^\s"',;]+
    # MY_TOKEN=… / "api_key": "…" / --password=…; numbers are counts (`max_tokens=64`), not secrets.
    # A name may begin as a key does (HF_ENDPOINT_TOKEN=…): it is read first.
    | (?P<named>(?:\b(?:sk|hf|ghp)[-_][\w-]*)?
        (?:token|api[_-]?key|secret|password|secret_access_key)["']?\s*[=:]\s*["']?)
      (?!\d+\b)(?!bearer\b)[^\s"',;&]+
    # postgresql://user:password@host
    | (?P<url>(?<=\w)://[^\s/:@]*:)[^\s/@]+(?=@)
    # Keys of the hubs and APIs that people paste.
    | (?P<key>\b(?:sk|hf|ghp)[-_])[\w-]{16,}
    """,
    re.IGNORECASE | re.VERBOSE,
)


def redact(text: str, secrets: frozenset[str] = frozenset()) -> str:
    """`text` with every secret replaced by `***`: the given values, and whatever looks like one.

    >>> redact("qdrant_api_key=abc123 at postgresql://ann:pw@db/x")
    'qdrant_api_key=*** at postgresql://ann:***@db/x'
    """
    for secret in secrets:
        text = text.replace(secret, HIDDEN)
    return _SECRET_TEXT.sub(lambda match: (match[match.lastgroup] if match.lastgroup else "") + HIDDEN, text)


def environment_secrets(environment: dict[str, str] | None = None) -> frozenset[str]:
    """Values of the environment variables whose names say that they are secrets."""
    variables = dict(os.environ) if environment is None else environment
    # A value of a few characters would blot out ordinary words.
    return frozenset(
        value for name, value in variables.items() if len(value) >= 8 and _SECRET_NAME.search(name)
    )


class RedactingFormatter(logging.Formatter):
    """Redacts the finished line, so that arguments and tracebacks are covered as well as messages."""

    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record), environment_secrets())


def set_up_logging(level: str = "INFO") -> None:
    """Send our log lines to stderr at `level`, others' from WARNING on. Again: only changes the level."""
    root = logging.getLogger()
    if not any(isinstance(handler.formatter, RedactingFormatter) for handler in root.handlers):
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(
            RedactingFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s", "%H:%M:%S")
        )
        root.addHandler(handler)
    root.setLevel(logging.WARNING)
    for package in PACKAGES:
        logging.getLogger(package).setLevel(level)
