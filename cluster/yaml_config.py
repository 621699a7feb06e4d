"""Configurations of jobs: a YAML file, `dotted.key=value` overrides, one frozen pydantic model."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args
from urllib.parse import urlsplit

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from cluster.errors import ConfigError


def _is_http(url: str) -> str:
    parts = urlsplit(url)
    _ = parts.port  # raises ValueError for one that is none
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{url!r} is no address of a service; it begins with http:// or https:// and a host")
    return url


Endpoint = Annotated[str, AfterValidator(_is_http)]


class Section(BaseModel):
    """Base of every part of such a file: immutable; unknown keys, and numbers that are none, are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


Config = TypeVar("Config", bound=Section)


class _Loader(yaml.SafeLoader):
    """Refuses a key that is given twice, of which PyYAML takes the last without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise yaml.constructor.ConstructorError(
                    problem=f"{key.value} is given twice", problem_mark=key.start_mark
                )
            seen.add(str(key.value))
        return super().construct_mapping(node, deep)


def load_yaml_config(model: type[Config], path: Path | None, overrides: Iterable[str] = ()) -> Config:
    """Read `path`, where one is given, as a `model`, with overrides applied, whose values are YAML too.

    Raises ConfigError that names every faulty key and the remedy.
    """
    raw = {} if path is None else _read(path)
    for override in overrides:
        _apply_override(raw, override)
    return validated(model, raw, "" if path is None else f"{path}: ")


def validated(model: type[Config], raw: Mapping[str, Any], where: str = "") -> Config:
    """`raw` as a `model`. Raises ConfigError that names every faulty key, behind `where`."""
    try:
        return model.model_validate(raw)
    except ValidationError as exc:
        faults = "; ".join(_explain(error, model) for error in exc.errors())
        raise ConfigError(where + faults, _dotted(exc.errors()[0]["loc"]) or None) from exc


def _read(path: Path) -> dict[str, Any]:
    try:
        raw = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except OSError as exc:
        raise ConfigError(f"cannot read {path}: {exc.strerror}; give the path of a YAML file") from exc
    except UnicodeDecodeError as exc:
        raise ConfigError(f"{path} is not UTF-8; convert the file to UTF-8") from exc
    except yaml.YAMLError as exc:
        raise ConfigError(f"{path} is not YAML: {_one_line(exc)}") from exc
    if not isinstance(raw, dict):
        what = {list: "a list", type(None): "nothing"}.get(type(raw), "a single value")
        raise ConfigError(f"{path} must hold lines of `key: value`; it holds {what}")
    return raw


def _apply_override(raw: dict[str, Any], override: str) -> None:
    key, separator, value = override.partition("=")
    if not separator or not key:
        raise ConfigError(f"override {override!r} is not of the form key=value, such as seed=1")
    *parents, leaf = key.split(".")
    node = raw
    for parent in parents:
        if node.get(parent) is None:  # absent, or a heading with nothing below it
            node[parent] = {}
        node = node[parent]
        if not isinstance(node, dict):
            raise ConfigError(f"override {override!r}: {parent} is a value, not a section", key)
    try:
        node[leaf] = yaml.load(value, _Loader) if value else None
    except yaml.YAMLError as exc:
        raise ConfigError(f"override {override!r} is not YAML: {_one_line(exc)}", key) from exc


def _explain(error: Any, model: type[BaseModel]) -> str:
    """One fault with its key; a misspelt key gets its nearest neighbour."""
    key = _dotted(error["loc"])
    if error["type"] == "extra_forbidden":
        near = _nearest(key, list(_known_keys(model)))
        return f"unknown key {key}" + (f"; did you mean {near}?" if near else "; remove it")
    if error["type"] == "missing":
        return f"{key} is missing"
    if error["type"] == "model_type":
        return f"{key} is a section: give its keys, as {key}.KEY=value (got {error['input']!r})"
    message = error["msg"].removeprefix("Value error, ")
    return f"{key}: {message} (got {error['input']!r})" if key and error["type"] != "value_error" else message


def _nearest(key: str, known: Sequence[str]) -> str | None:
    """The known key that was meant: one like it in its section, else the same or nearly so in another.

    >>> _nearest("epoch", ["epochs", "scaling.num_workers"]), _nearest("num_workers", ["epochs", "scaling.num_workers"])
    ('epochs', 'scaling.num_workers')
    """
    section, _, name = key.rpartition(".")
    beside = {path.rpartition(".")[2]: path for path in known if path.rpartition(".")[0] == section}
    anywhere = {path.rpartition(".")[2]: path for path in known}
    for paths, cutoff in ((beside, 0.6), (anywhere, 0.8)):
        for match in difflib.get_close_matches(name, list(paths), n=1, cutoff=cutoff):
            return paths[match]
    return None


def _known_keys(annotation: Any, section: str = "") -> Iterator[str]:
    """The keys of a model and of every section in it, dotted."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        for name, field in annotation.model_fields.items():
            yield section + name
            yield from _known_keys(field.annotation, f"{section}{name}.")
    for inner in get_args(annotation):
        yield from _known_keys(inner, section)


def _dotted(location: tuple[int | str, ...]) -> str:
    return ".".join(str(part) for part in location)


def _one_line(exc: Exception) -> str:
    return " ".join(str(exc).split())
