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
    train = _encode_all(rows.train, "training", tokenizer, max_length_tokens)
    validation = _encode_all(rows.validation, "validation", tokenizer, max_length_tokens)
    notices = [
        f"{len(all_rows) - len(kept)} of {len(all_rows)} {what} rows are left out: longer than "
        f"{max_length_tokens} tokens, or without a trained answer"
        for what, all_rows, kept in (
            ("training", rows.train, train),
            ("validation", rows.validation, validation),
        )
        if len(kept) < len(all_rows)
    ]
    return Dataset(train, validation, (), tuple(notices))


def fits(example: Example, max_length_tokens: int) -> bool:
    """Whether a row is used: it fits whole, and some of it is trained."""
    return len(example.input_ids) <= max_length_tokens and example.num_targets > 0


def sft_metrics(loss: float) -> dict[str, float]:
    """Perplexity = e^loss, with the loss in nats per trained token (Jelinek et al. 1977).

    >>> round(sft_metrics(0.6931471805599453)["perplexity"], 6)
    2.0
    """
    return {"perplexity": math.exp(min(loss, 700.0))}


def _encode_all(rows: Sequence[Row], what: str, tokenizer: Any, max_length_tokens: int) -> list[Example]:
    examples = []
    for row in rows:
        where = f"{what} file, line {row.line}"
        messages = check_messages(row.columns.get("messages"), where)
        try:
            example = encode(render(messages, tokenizer), tokenizer)
        except DataError as exc:
            raise DataError(f"{where}: {exc.message}", exc.param) from exc
        if fits(example, max_length_tokens):
            examples.append(example)
    if not examples:
        raise DataError(
            f"no {what} row has a trained token within {max_length_tokens} tokens; raise max_length_tokens",
            "max_length_tokens",
        )
    return examples
