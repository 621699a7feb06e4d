"""Bodies of requests: what every one of them refuses, whatever its fields.

Python's JSON reader takes more than JSON: `NaN`, halves of surrogate pairs, numbers of any length. None of it can
be stored, answered or sent to an engine, so it is refused here and nowhere else.
"""

from __future__ import annotations

import math
from typing import Any

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

    @model_validator(mode="before")
    @classmethod
    def _is_sound(cls, value: Any) -> Any:
        require_sound(value)
        return value


def require_sound(value: object, param: str = "", depth: int = 0) -> None:
    """Raise InvalidInput, naming the field, for what is no JSON or more than can be kept.

    >>> require_sound({"filters": [{"value": float("nan")}]})
    Traceback (most recent call last):
    cluster.errors.InvalidInput: filters[0].value is nan, which is no number in JSON
    """
    name = param or "the body"
    if depth > MAX_DEPTH:
        raise InvalidInput(f"{name} is nested more than {MAX_DEPTH} levels deep", param or None)
    if isinstance(value, dict):
        for key, item in value.items():
            if has_half_character(key):
                raise InvalidInput(
                    f"a key of {name} holds half of a surrogate pair, which is no character", param or None
                )
            require_sound(item, f"{param}.{key}" if param else key, depth + 1)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            require_sound(item, f"{param}[{index}]", depth + 1)
    elif isinstance(value, str):
        if has_half_character(value):
            raise InvalidInput(f"{name} holds half of a surrogate pair, which is no character", param or None)
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise InvalidInput(f"{name} is {value}, which is no number in JSON", param or None)
    elif isinstance(value, int) and value not in INTEGERS:
        raise InvalidInput(f"{name} is an integer of more than 64 bits", param or None)


def has_half_character(text: str) -> bool:
    """Whether a surrogate stands alone: JSON can carry it, but it is no character."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False
