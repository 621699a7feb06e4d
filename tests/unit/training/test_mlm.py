from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from cluster.errors import DataError
from training.examples import IGNORE
from training.mlm import mask, prepare_mlm
from training.row_files import Row
from training.sources import Rows

MASK_ID, VOCABULARY = 4, 1000


@given(st.lists(st.integers(10, 999), min_size=1, max_size=60), st.integers(0, 5))
def test_labels_are_the_true_tokens_and_inputs_change_nowhere_else(ids: list[int], seed: int) -> None:
    example = mask([1, *ids, 2], [False, *[True] * len(ids), False], MASK_ID, VOCABULARY, seed)
    guessed = [index for index, label in enumerate(example.labels) if label != IGNORE]
    assert len(guessed) == max(1, round(0.15 * len(ids)))
    assert not {0, len(ids) + 1} & set(guessed)
    for index, (token, label) in enumerate(zip([1, *ids, 2], example.labels, strict=True)):
        assert label in (IGNORE, token)
        if label == IGNORE:
            assert example.input_ids[index] == token


def test_of_the_guessed_tokens_eight_in_ten_are_masked() -> None:
    examples = [mask([n + 10] * 100, [True] * 100, MASK_ID, 10**6, seed=0) for n in range(200)]
    guessed = [
        (i, e, n) for n, e in enumerate(examples) for i, label in enumerate(e.labels) if label != IGNORE
    ]
    masked = sum(e.input_ids[i] == MASK_ID for i, e, _ in guessed) / len(guessed)
    kept = sum(e.input_ids[i] == n + 10 for i, e, n in guessed) / len(guessed)
    assert masked == pytest.approx(0.8, abs=0.03)
    assert kept == pytest.approx(0.1, abs=0.03)


def test_a_piece_is_masked_the_same_wherever_it_stands() -> None:
    ids, free = list(range(10, 60)), [True] * 50
    assert mask(ids, free, MASK_ID, VOCABULARY, 1) == mask(ids, free, MASK_ID, VOCABULARY, 1)
    assert mask(ids, free, MASK_ID, VOCABULARY, 1) != mask(ids, free, MASK_ID, VOCABULARY, 2)


def rows_of(*texts: object) -> Rows:
    rows = [Row(number, {"text": text}) for number, text in enumerate(texts, 1)]
    return Rows(rows, rows[:1], "rows.jsonl")


def test_a_long_text_becomes_pieces_and_none_of_it_is_lost(word_tokenizer: PreTrainedTokenizerFast) -> None:
    word_tokenizer.mask_token = "<pad>"
    dataset = prepare_mlm(rows_of("a b c d e f g h i j", "the cat"), word_tokenizer, 6, seed=0)
    true = [
        [label if label != IGNORE else token for token, label in zip(e.input_ids, e.labels, strict=True)]
        for e in dataset.train
    ]
    words = " ".join(word_tokenizer.decode(ids, skip_special_tokens=True) for ids in true)
    assert words == "a b c d e f g h i j the cat"
    assert max(len(example.input_ids) for example in dataset.train) == 6


def test_a_model_without_a_mask_token_is_refused(word_tokenizer: PreTrainedTokenizerFast) -> None:
    word_tokenizer.mask_token = None
    with pytest.raises(DataError, match="no mask token; mlm trains encoders"):
        prepare_mlm(rows_of("a"), word_tokenizer, 6, seed=0)


def test_a_row_without_text_is_named_by_its_line(word_tokenizer: PreTrainedTokenizerFast) -> None:
    word_tokenizer.mask_token = "<pad>"
    with pytest.raises(DataError, match="training file, line 2, text: text must be text, found 7"):
        prepare_mlm(rows_of("a", 7), word_tokenizer, 6, seed=0)


def test_a_row_of_a_folder_is_named_by_its_file(word_tokenizer: PreTrainedTokenizerFast) -> None:
    word_tokenizer.mask_token = "<pad>"
    rows = Rows([Row(2, {"text": 7}, "part.jsonl")], [], "rows")
    with pytest.raises(DataError, match=r"training file, part\.jsonl, line 2, text: text must be text"):
        prepare_mlm(rows, word_tokenizer, 6, seed=0)
