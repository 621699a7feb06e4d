"""What runs on the event loop reads a text of any caller about once: 200,000 characters take no time.

A regular expression that reads on anew from each of them takes minutes, in which nobody else is answered.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from cluster.grounding import grounded_question
from cluster.logs import redact
from serving.policy import sentence_pair
from serving.tokenizer import neutralise, special_token_pattern
from serving.vector_store_requests import rewritten

LENGTH = 200_000
SPECIAL = special_token_pattern(["<|im_start|>", "<|im_end|>"])


def _passage(text: str) -> str:
    return grounded_question("q", [f"x{text}x"])


def _prompt(text: str) -> str:
    return neutralise(text, SPECIAL)


@pytest.mark.timeout(60, method="signal")
@pytest.mark.parametrize(
    ("read", "units"),
    [
        (redact, ["a", "a-", "token", "token ", "sk-", "sk-token", "bearer ", "a://b:"]),
        (sentence_pair, ["\n", " ", "\u201c", '"', "sentence 1:\n", "same "]),
        (rewritten, [" ", ".", "thanks ", "dear ", "can you "]),
        (_passage, ["\n", " ", "[1"]),
        (_prompt, ["<|im_start", "<|im_end|>"]),
    ],
)
def test_no_text_is_read_again_from_each_of_its_characters(
    read: Callable[[str], object], units: Sequence[str]
) -> None:
    for unit in units:
        text = unit * (LENGTH // len(unit))
        read(text)
        read(f"x{text}x")
