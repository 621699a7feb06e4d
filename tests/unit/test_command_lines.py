"""What the command lines have in common: an example in every help, and one name for one thing."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import import_module

import pytest
import typer
from typer.core import TyperGroup
from typer.main import get_command

from cluster.errors import InvalidInput

PACKAGES = ("cluster", "training", "retrieval", "evaluation")


def commands_of(
    group: TyperGroup, path: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], typer.core.TyperCommand]]:
    for name, command in group.commands.items():
        if isinstance(command, TyperGroup):
            yield from commands_of(command, (*path, name))
        else:
            yield (*path, name), command


def command_line(package: str) -> TyperGroup:
    group = get_command(import_module(f"{package}.__main__").app)
    assert isinstance(group, TyperGroup)
    return group


COMMANDS = dict(found for package in PACKAGES for found in commands_of(command_line(package), (package,)))


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
    options = {
        name: parameter
        for command in COMMANDS.values()
        for parameter in command.params
        for name in parameter.opts
    }
    assert "--tenant" not in options  # a project at command lines
    flags = {
        parameter.is_flag for c in COMMANDS.values() for parameter in c.params if "--json" in parameter.opts
    }
    assert flags == {True}


@pytest.mark.parametrize("name", ["Ärzte", "a b", "x" * 41])
def test_a_project_that_no_key_can_open_gets_no_documents(name: str) -> None:
    arguments = ["ingest", "examples/handbook/docs", "-c", "c", "--project", name]
    with pytest.raises(InvalidInput, match=r"project .* must be 1 to 40 of a-z"):
        command_line("retrieval").main(arguments, standalone_mode=False)
