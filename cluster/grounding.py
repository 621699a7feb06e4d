"""How passages stand in a question: what serving sends, and what a model that is trained to read must be shown.

The wording is a contract between the two, as the ModelCard is. Passages are numbered from 1 in the order of
their rank, the best one nearest to the question: a small model reads best what it read last. Their text is data:
it is inserted by concatenation and cannot pass for the number of another passage.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

# Short, since small models follow little else; measured on the example handbook (docs/serving.md).
INSTRUCTION = "Answer the question with the facts in these passages."

# A line that begins like one of our own markers.
_FORGED_MARKER = re.compile(r"^([^\S\n]*)\[(\d+)\]", re.MULTILINE)


def grounded_question(question: str, passages: Sequence[str]) -> str:
    """The text of a user's turn that asks `question` of `passages`, the best one first."""
    if not passages:
        return question
    numbered = [f"[{number}] {_without_markers(text)}" for number, text in enumerate(passages, start=1)]
    return "\n\n".join([INSTRUCTION, *reversed(numbered), f"Question: {question}"])


def _without_markers(text: str) -> str:
    return _FORGED_MARKER.sub(r"\1(\2)", text.strip())
