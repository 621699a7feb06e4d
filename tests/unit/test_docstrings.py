"""The examples in docstrings, run as they stand: whoever reads one may rely on it."""

from __future__ import annotations

import doctest
from importlib import import_module
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
PACKAGES = ("cluster", "training", "retrieval", "serving", "evaluation")
PROMPT = ">>> "


def files_with_examples() -> list[Path]:
    files = [file for package in PACKAGES for file in sorted((REPOSITORY / package).rglob("*.py"))]
    return [file.relative_to(REPOSITORY) for file in files if PROMPT in file.read_text()]


@pytest.mark.parametrize("file", files_with_examples(), ids=Path.as_posix)
def test_the_examples_of_docstrings_are_right(file: Path) -> None:
    found = doctest.testmod(import_module(".".join(file.with_suffix("").parts)))
    # All of them, as doctest passes over what it does not see, like a function inside a function.
    assert found == (0, (REPOSITORY / file).read_text().count(PROMPT))
