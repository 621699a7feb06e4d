"""What a collection may be called, and how it may be filled."""

from __future__ import annotations

import pytest

from cluster.errors import ConfigError
from retrieval.config import retrieval_config


@pytest.mark.parametrize("name", ["Handbook", "größe", "-a", "a b", "x" * 64])
def test_a_name_that_is_none_is_refused_in_words(name: str) -> None:
    with pytest.raises(ConfigError, match=r"collection: .* must be 1 to 63 of a-z, 0-9, _ and -"):
        retrieval_config(collection=name)


def test_every_fault_is_told_at_once_with_what_was_given() -> None:
    with pytest.raises(ConfigError, match=r"collection: '-a' must be .*; chunk_tokens: .* \(got 0\)"):
        retrieval_config(collection="-a", chunk_tokens=0)
