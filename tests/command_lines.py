"""The commands of all our command lines, for tests of what they and the documents say."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module

from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

PACKAGES = ("cluster", "training", "retrieval", "evaluation")


def commands_of(group: TyperGroup, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], TyperCommand]]:
    for name, command in group.commands.items():
        if isinstance(command, TyperGroup):
            yield from commands_of(command, (*path, name))
        elif isinstance(command, TyperCommand):
            yield (*path, name), command


def command_line(package: str) -> TyperGroup:
    group = get_command(import_module(f"{package}.__main__").app)
    assert isinstance(group, TyperGroup)
    return group


COMMANDS = dict(found for package in PACKAGES for found in commands_of(command_line(package), (package,)))
