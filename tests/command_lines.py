"""The commands of all our command lines, for tests of what they, documents and manifests say."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import import_module

from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

PACKAGES = ("cluster", "training", "retrieval", "evaluation")
COMMAND = re.compile(rf"python -m ({'|'.join(PACKAGES)})\b((?:[ /]+[\w.-]+)?[^`#|>&;)\n]*)")


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


def unknown_commands(text: str) -> Iterator[str]:
    """`python -m …` calls of a subcommand or with an option that is not there."""
    for package, rest in COMMAND.findall(text):
        words = rest.split()
        group: object = command_line(package)
        path = [package]
        while words and isinstance(group, TyperGroup) and words[0] in group.commands:
            path.append(words.pop(0))
            group = group.commands[path[-1]]
        if isinstance(group, TyperGroup):
            if words and re.fullmatch(r"[a-z]+", words[0]):
                yield f"{' '.join(path)} {words[0]}"
            continue
        known = {
            name
            for parameter in COMMANDS[tuple(path)].params
            for name in (*parameter.opts, *parameter.secondary_opts)
        }
        yield from (
            f"{' '.join(path)} {word}"
            for word in words
            if word.startswith("--") and word not in {*known, "--help"}
        )
