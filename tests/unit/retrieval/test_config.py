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


@pytest.mark.parametrize(
    ("size", "overlap", "told"),
    [
        (512, 512, r"chunk_overlap_tokens \(512\) must be below chunk_tokens \(512\)"),
        (512, 600, r"chunk_overlap_tokens \(600\) must be below chunk_tokens \(512\)"),
        (512, -1, r"chunk_overlap_tokens: .* \(got -1\)"),
    ],
)
def test_an_overlap_that_leaves_no_room_is_refused_with_the_numbers(
    size: int, overlap: int, told: str
) -> None:
    with pytest.raises(ConfigError, match=told):
        retrieval_config(collection="c", chunk_tokens=size, chunk_overlap_tokens=overlap)
