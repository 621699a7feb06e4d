"""Bodies of requests: what every one of them refuses, whatever its fields.

Python's JSON reader takes more than JSON: `NaN`, halves of surrogate pairs, numbers of any length. None of it can
be stored, answered or sent to an engine, so it is refused here and nowhere else.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, model_validator

from cluster.errors import InvalidInput

# What the database and every engine hold.
INTEGERS = range(-(2**63), 2**63)
# Deeper than any JSON schema that constrains an answer, and far from what the writers of JSON take.
MAX_DEPTH = 64


class Part(BaseModel):
    """An object within a body. A field that is not listed is refused with its name."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Body(Part):
    """A whole body."""

    is_kept: ClassVar[bool] = False

    @model_validator(mode="before")
    @classmethod
    def _is_sound(cls, value: Any) -> Any:
        require_sound(value, is_kept=cls.is_kept)
        return value


class KeptBody(Body):
    """A body whose texts go to the database. PostgreSQL keeps no NUL, and fails to read a label that has one."""

    is_kept: ClassVar[bool] = True


def require_sound(value: object, param: str = "", depth: int = 0, *, is_kept: bool = False) -> None:
    """Raise InvalidInput, naming the field, for what is no JSON or more than can be kept.

    >>> require_sound({"filters": [{"value": float("nan")}]})
    Traceback (most recent call last):
    cluster.errors.InvalidInput: filters[0].value is nan, which is no number in JSON
    """
    name = param or "the body"
    fault = None
    if depth > MAX_DEPTH:
        fault = f"is nested more than {MAX_DEPTH} levels deep"
    elif isinstance(value, dict):
        for key, item in value.items():
            if text_fault(key, is_kept):
                raise InvalidInput(f"a key of {name} {text_fault(key, is_kept)}", param or None)
            require_sound(item, f"{param}.{key}" if param else key, depth + 1, is_kept=is_kept)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            # A prompt may be a million token ids: a second's work, if each were given its name.
            if type(item) is not int or item not in INTEGERS:
                require_sound(item, f"{param}[{index}]", depth + 1, is_kept=is_kept)
    elif isinstance(value, str):
        fault = text_fault(value, is_kept)
    elif isinstance(value, float) and not math.isfinite(value):
        fault = f"is {value}, which is no number in JSON"
    elif isinstance(value, int) and value not in INTEGERS:
        fault = "is an integer of more than 64 bits"
    if fault:
        raise InvalidInput(f"{name} {fault}", param or None)


def text_fault(text: str, is_kept: bool) -> str | None:
    """What is wrong with a text, as the rest of a sentence."""
    if is_kept and "\0" in text:
        return "holds a NUL character; remove it"
    try:
        text.encode()
    except UnicodeEncodeError:
        return "holds half of a surrogate pair, which is no character"
    return None
