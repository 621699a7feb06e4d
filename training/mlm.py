"""The masked language modelling task: texts -> an encoder that knows their words, to fine-tune further.

No torch here: the loss lives in `training/encoder_modules.py`.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from cluster.errors import DataError
from training.examples import IGNORE, Dataset, Example, Examples, blocks
from training.faults import Fault, raise_first, text_fault
from training.row_files import Row
from training.sources import Rows

# Devlin et al., BERT (2019), section 3.1: of all tokens 15 % are to be guessed; of those 80 % are masked,
# 10 % replaced by a random token, 10 % left as they are.
GUESSED_SHARE = 0.15
MASKED_SHARE, RANDOM_SHARE = 0.8, 0.1


def mlm_faults(columns: Mapping[str, Any]) -> Iterator[Fault]:
    return text_fault(columns, "text")


def prepare_mlm(rows: Rows, tokenizer: Any, max_length_tokens: int, seed: int) -> Dataset:
    """Tokenise texts and mask them; a long one becomes several pieces, so that nothing is cut away.

    A piece is masked the same way in every epoch and wherever it stands in the file: the draw depends on
    the seed and its own tokens. So validation figures of two runs can be compared.
    """
    if tokenizer.mask_token_id is None:
        raise DataError(
            "the base model has no mask token; mlm trains encoders such as builtin:minilm", "model"
        )
    return Dataset(
        Examples.of(_masked(rows.train, "training file", tokenizer, max_length_tokens, seed)),
        Examples.of(_masked(rows.validation, rows.validation_file, tokenizer, max_length_tokens, seed)),
    )


def mask(
    ids: Sequence[int], maskable: Sequence[bool], mask_id: int, vocabulary_size: int, seed: int
) -> Example:
    """One piece with 15 % of its maskable tokens (one at least) to be guessed. Pure.

    `labels` hold the true token where it is to be guessed, and IGNORE elsewhere.
    """
    draw = random.Random(f"{seed}:{list(ids)}")
    places = [index for index, is_maskable in enumerate(maskable) if is_maskable]
    guessed = draw.sample(places, min(len(places), max(1, round(GUESSED_SHARE * len(places)))))
    input_ids, labels = list(ids), [IGNORE] * len(ids)
    for index in guessed:
        labels[index] = ids[index]
        chance = draw.random()
        if chance < MASKED_SHARE:
            input_ids[index] = mask_id
        elif chance < MASKED_SHARE + RANDOM_SHARE:
            input_ids[index] = draw.randrange(vocabulary_size)
    return Example(input_ids, labels, [])


def _masked(
    rows: Iterable[Row], what: str, tokenizer: Any, max_length_tokens: int, seed: int
) -> Iterator[Example]:
    for block in blocks(rows):
        for row in block:
            raise_first(mlm_faults(row.columns), f"{what}, {row.where}")
        encoded = tokenizer(
            [row.columns["text"] for row in block],
            truncation=True,
            max_length=max_length_tokens,
            return_overflowing_tokens=True,
            return_special_tokens_mask=True,
        )
        for ids, special in zip(encoded["input_ids"], encoded["special_tokens_mask"], strict=True):
            maskable = [not is_special for is_special in special]
            example = mask(ids, maskable, tokenizer.mask_token_id, len(tokenizer), seed)
            if example.num_targets:
                yield example
