"""Rendered overlays, once for all tests; the linter's modules lie beside this file."""

from __future__ import annotations

import copy
import shutil
import sys
import tomllib
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from manifests import JOBS, OVERLAYS, REPOSITORY, Document, render
from ray_rules import Versions

_rendered = cache(render)


@pytest.fixture
def rendered() -> Callable[[str], list[Document]]:
    """A fresh copy of what a kustomization renders to, so that a test may spoil it.

    Jobs are checked together with the overlay whose settings, claims and policies they use.
    """
    if shutil.which("kubectl") is None:
        pytest.skip("needs kubectl, to render kustomizations")

    def copy_of(target: str) -> list[Document]:
        documents = list(_rendered(target))
        if target in JOBS:
            documents += _rendered(OVERLAYS[JOBS.index(target)])
        return copy.deepcopy(documents)

    return copy_of


@pytest.fixture
def versions() -> Versions:
    """Read from pyproject.toml."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    [ray] = [pin for pin in project["project"]["dependencies"] if pin.startswith("ray[")]
    return Versions(
        project["project"]["version"], ray.split("==")[1], project["tool"]["mypy"]["python_version"]
    )
