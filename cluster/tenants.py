"""Tenants: the projects that share a cluster, each with its own keys, files, jobs and documents."""

from __future__ import annotations

import re

# Whose everything is that names none: callers without a key, and the command lines.
DEFAULT_TENANT = "default"

TENANT_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}")
