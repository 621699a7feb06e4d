"""The fence around parsers that are not ours: whatever one raises on a file, the file is damaged."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from cluster.errors import DataError, HamletError

log = logging.getLogger(__name__)


@contextmanager
def parsing(kind: str) -> Iterator[None]:
    """Raises DataError for what a parser of this kind of file raises. `kind` stands in the message: `PDF`.

    A list of exceptions would never be whole: a parser lets through what its zip, XML and image libraries raise,
    names none of it, and adds its own mistakes on input that it did not expect.
    """
    try:
        yield
    except (HamletError, RecursionError, MemoryError):
        raise  # ours; told by the caller in its own words; the machine's
    except Exception as exc:
        # The message is what a user needs, the place what a maintainer does.
        log.debug("a %s file could not be parsed", kind, exc_info=True)
        reason = str(exc) or type(exc).__name__
        raise DataError(f"the {kind} file is damaged: {reason}", "file", "damaged_file") from exc
