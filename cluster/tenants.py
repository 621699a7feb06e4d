"""Tenants: the projects that share a cluster, each with its own keys, files, jobs and documents."""

from __future__ import annotations

import re

from cluster.errors import InvalidInput

# Whose everything is that names none: callers without a key, and the command lines.
DEFAULT_TENANT = "default"

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}")


def require_tenant(name: str) -> str:
    """`name`, when a tenant can be called that. Raises InvalidInput; at command lines it is a project."""
    if not _NAME.fullmatch(name):
        raise InvalidInput(
            f"project {name!r} must be 1 to 40 of a-z, 0-9, _ and -, the first a letter or digit", "project"
        )
    return name
