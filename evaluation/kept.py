"""Files of a comparison that let it go on where it stopped: steps that are done once, and whole writes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from cluster.errors import ConfigError

Figures = TypeVar("Figures", bound=BaseModel)


class Kept(BaseModel):
    """Figures that are kept in a file of their own. Immutable."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def once(
    folder: Path, name: str, asked: object, kind: type[Figures], measure: Callable[[], Figures]
) -> Figures:
    """What `measure` returned for `asked`, from `<folder>/<name>-<fingerprint>.json` if it was done before.

    `asked` is everything that the figures depend on; its repr is the fingerprint.
    """
    fingerprint = hashlib.sha256(repr(asked).encode()).hexdigest()[:12]
    path = folder / f"{name}-{fingerprint}.json"
    try:
        return kind.model_validate_json(path.read_bytes())
    except (FileNotFoundError, ValidationError):  # never done, or by a version with other figures
        figures = measure()
        write_whole(path, figures.model_dump_json(indent=2).encode())
        return figures


def write_whole(path: Path, content: bytes) -> None:
    """Write a file that is never seen half written. Raises ConfigError where nothing can be written."""
    partial = path.with_name(path.name + ".partial")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(content)
        partial.replace(path)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """A block that writes there. Raises ConfigError where it cannot."""
    try:
        yield
    except OSError as exc:
        raise ConfigError(
            f"cannot write {path}: {exc.strerror}; name a folder of yours with free space"
        ) from exc
