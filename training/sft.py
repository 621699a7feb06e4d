"""The supervised fine-tuning task: chat rows -> a model that answers like them.

No torch here: the loss lives in `training/modules.py`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from cluster.errors import DataError
from training.chat import check_messages, encode, render
from training.examples import Dataset, Example
from training.sources import Row, Rows


def prepare_sft(rows: Rows, tokenizer: Any, max_length_tokens: int) -> Dataset:
    """Render and tokenise rows; rows that do not fit whole are left out, and told.

    A row cut in its answer would teach the model never to stop, and one cut before it teaches nothing.
    """
    if not tokenizer.chat_template:
        raise DataError("the base model has no chat template; use an instruct model for sft", "model")
    train, left_out = _encode_all(rows.train, "training", tokenizer, max_length_tokens)
    validation, _ = _encode_all(rows.validation, "validation", tokenizer, max_length_tokens)
    notices = []
    if left_out:
        notices.append(
            f"{left_out} of {len(rows.train)} rows are longer than {max_length_tokens} tokens and are left out"
        )
    return Dataset(train, validation, (), tuple(notices))


def sft_metrics(loss: float) -> dict[str, float]:
    """Perplexity = e^loss, with the loss in nats per trained token (Jelinek et al. 1977).

    >>> round(sft_metrics(0.6931471805599453)["perplexity"], 6)
    2.0
    """
    return {"perplexity": math.exp(min(loss, 700.0))}


def _encode_all(
    rows: Sequence[Row], what: str, tokenizer: Any, max_length_tokens: int
) -> tuple[list[Example], int]:
    examples = []
    for row in rows:
        messages = check_messages(row.columns.get("messages"), f"{what} file, line {row.line}")
        example = encode(render(messages, tokenizer), tokenizer)
        if len(example.input_ids) <= max_length_tokens and example.num_targets:
            examples.append(example)
    if not examples:
        raise DataError(
            f"no {what} row has a trained token within {max_length_tokens} tokens; raise max_length_tokens",
            "max_length_tokens",
        )
    return examples, len(rows) - len(examples)
