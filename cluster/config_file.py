"""A frozen model from a YAML file and `dotted.key=value` overrides, with errors that name the key."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from cluster.errors import ConfigError

ConfigT = TypeVar("ConfigT", bound=BaseModel)


def read_config(model: type[ConfigT], path: Path | None, overrides: list[str]) -> ConfigT:
    """Read `path`, where one is given, and put the overrides on top; their values are YAML too.

    Raises ConfigError naming the key and the remedy.
    """
    raw = {} if path is None else read_mapping(path)
    for override in overrides:
        _apply(raw, override)
    try:
        return model.model_validate(raw)
    except ValidationError as exc:
        faults = [(".".join(map(str, error["loc"])), _message(error)) for error in exc.errors()]
        text = "; ".join(f"{key}: {message}" if key else message for key, message in faults)
        raise ConfigError(f"{path}: {text}" if path else text, faults[0][0] or None) from exc


def read_mapping(path: Path) -> dict[str, Any]:
    """The keys and values of a YAML (or JSON) file. Raises ConfigError."""
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as exc:
        raise ConfigError(f"cannot read {path}: {exc.strerror}; give the path of a YAML file") from exc
    except (UnicodeDecodeError, yaml.YAMLError) as exc:
        raise ConfigError(f"{path} is not YAML in UTF-8: {' '.join(str(exc).split())}") from exc
    if not isinstance(raw, dict):
        raise ConfigError(f"{path} must hold keys and values; it holds {type(raw).__name__}")
    return raw


def _apply(raw: dict[str, Any], override: str) -> None:
    key, separator, value = override.partition("=")
    if not separator or not key:
        raise ConfigError(f"override {override!r} is not of the form key=value")
    *parents, leaf = key.split(".")
    node = raw
    for parent in parents:
        if node.get(parent) is None:  # absent, or a heading with nothing below it
            node[parent] = {}
        node = node[parent]
        if not isinstance(node, dict):
            raise ConfigError(f"override {override!r}: {parent} is a value, not a section", key)
    try:
        node[leaf] = yaml.safe_load(value)
    except yaml.YAMLError as exc:
        raise ConfigError(f"override {override!r} is not YAML: {' '.join(str(exc).split())}", key) from exc


def _message(error: Any) -> str:
    if error["type"] == "extra_forbidden":
        return "no such key; remove it or correct its spelling"
    message = str(error["msg"]).removeprefix("Value error, ")
    return message if error["type"] in ("missing", "value_error") else f"{message} (got {error['input']!r})"
