"""What the command lines have in common: an example in every help, and one name for one thing."""

from __future__ import annotations

import re

import pytest
from command_lines import COMMANDS, PACKAGES, command_line

from cluster.errors import InvalidInput


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_command_teaches_with_an_example(path: tuple[str, ...]) -> None:
    text = " ".join((COMMANDS[path].help or "").split())
    assert re.search(rf"Example: \[bold\].*python -m {' '.join(path)}\b.*\[/\]$", text)


@pytest.mark.parametrize("package", PACKAGES)
def test_every_command_line_begins_with_examples_and_offers_nothing_that_is_not_ours(package: str) -> None:
    group = command_line(package)
    assert f"Example: python -m {package} " in " ".join((group.help or "").split())
    assert {name for option in group.params for name in option.opts} <= {"--help"}


def test_one_thing_has_one_name_and_one_form() -> None:
    options = [parameter for command in COMMANDS.values() for parameter in command.params]
    assert not [option for option in options if "--tenant" in option.opts]  # a project at command lines
    assert all(getattr(option, "is_flag", False) for option in options if "--json" in option.opts)


@pytest.mark.parametrize("name", ["Ärzte", "a b", "x" * 41])
def test_a_project_that_no_key_can_open_gets_no_documents(name: str) -> None:
    arguments = ["ingest", "examples/handbook/docs", "-c", "c", "--project", name]
    with pytest.raises(InvalidInput, match=r"project .* must be 1 to 40 of a-z"):
        command_line("retrieval").main(arguments, standalone_mode=False)
