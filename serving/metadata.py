"""`metadata` of an object: pairs that its caller chooses, within OpenAI's bounds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator

MAX_PAIRS = 16
MAX_KEY_LENGTH = 64
MAX_VALUE_LENGTH = 512

Pairs = TypeVar("Pairs", bound=Mapping[str, Any])


def few_and_short(value: Pairs) -> Pairs:
    """The pairs as they are. Raises ValueError for too many, an empty or long key, or a long text."""
    if len(value) > MAX_PAIRS:
        raise ValueError(f"has {len(value)} entries; at most {MAX_PAIRS} are allowed")
    for key, item in value.items():
        if not 1 <= len(key) <= MAX_KEY_LENGTH:
            raise ValueError(f"key {key[:MAX_KEY_LENGTH]!r} must have 1 to {MAX_KEY_LENGTH} characters")
        if isinstance(item, str) and len(item) > MAX_VALUE_LENGTH:
            raise ValueError(f"{key} has {len(item)} characters; at most {MAX_VALUE_LENGTH} are allowed")
    return value


Metadata = Annotated[dict[str, str], AfterValidator(few_and_short)]
