from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from cluster.errors import DataError
from training import examples
from training.encoder_modules import EmbeddingModule, collate_texts
from training.examples import Dataset, Example
from training.modules import weightless
from training.pairs import (
    RIGHT,
    is_scored,
    pair_columns,
    pair_faults,
    pair_metrics,
    prepare_pairs,
    with_distractors,
)
from training.row_files import Row
from training.sentence_files import SentenceForm
from training.sources import Rows


def rows_of(*columns: dict[str, Any]) -> Rows:
    rows = [Row(number, row) for number, row in enumerate(columns, 1)]
    return Rows(rows, rows, "rows.jsonl")


@pytest.mark.parametrize(
    ("row", "found"),
    [
        ({"anchor": "a", "positive": "b"}, ("anchor", "positive")),
        ({"query": "a", "passage": "b", "id": 1}, ("query", "passage")),
        ({"anchor": "a", "positive": "b", "negative": "c"}, ("anchor", "positive", "negative")),
        ({"sentence1": "a", "sentence2": "b", "score": 0.5}, ("sentence1", "sentence2", "score")),
    ],
)
def test_the_form_of_a_row_is_known_by_its_columns(row: dict[str, Any], found: tuple[str, ...]) -> None:
    assert pair_columns(row) == found


def test_rows_of_no_known_form_are_refused() -> None:
    with pytest.raises(DataError, match="no pairs among left, right; name the columns anchor and positive"):
        pair_columns({"left": "a", "right": "b"})


@pytest.mark.parametrize("score", [None, "much", 1.5, -2, float("nan")])
def test_a_score_outside_its_range_is_refused(score: Any) -> None:
    names = ("sentence1", "sentence2", "score")
    (fault,) = pair_faults({"sentence1": "a", "sentence2": "b", "score": score}, names)
    assert "score must be a number from -1 to 1" in fault.reason


def test_all_texts_of_a_row_stand_in_one_example(word_tokenizer: PreTrainedTokenizerFast) -> None:
    rows = rows_of(*({"query": f"the {letter}", "passage": "cat sat on"} for letter in "ab"))
    dataset: Dataset = prepare_pairs(rows, word_tokenizer, 8, SentenceForm())
    assert dataset.train[0].segment_ids == [0, 0, 0, 0, 1, 1, 1, 1, 1]
    assert dataset.train[0].labels == [RIGHT]


def test_the_prompts_of_the_base_stand_before_query_and_passages(
    word_tokenizer: PreTrainedTokenizerFast,
) -> None:
    rows = rows_of({"query": "cat", "passage": "sat"}, {"query": "dog", "passage": "ran"})
    form = SentenceForm(query_prompt="q ", document_prompt="d ")
    dataset: Dataset = prepare_pairs(rows, word_tokenizer, 8, form)
    assert word_tokenizer.decode(dataset.train[0].input_ids) == "[CLS] q cat [SEP] [CLS] d sat [SEP]"
    held_out = word_tokenizer.decode(dataset.validation[0].input_ids)
    assert held_out == "[CLS] q cat [SEP] [CLS] d sat [SEP] [CLS] d ran [SEP]"


@pytest.mark.parametrize("block_rows", [1, 3, 1000])
def test_texts_that_are_tokenised_together_become_what_they_are_alone(
    word_tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch, block_rows: int
) -> None:
    words = "the cat sat on the mat and the dog ran away"
    rows = rows_of(
        *({"anchor": words[: 3 * n], "positive": words[n:], "negative": words[2 * n :]} for n in range(1, 12))
    )
    form, num_calls = SentenceForm(query_prompt="q ", document_prompt="d "), 0

    def counted(texts: list[str], **options: Any) -> Any:
        nonlocal num_calls
        num_calls += 1
        return word_tokenizer(texts, **options)

    monkeypatch.setattr(examples, "BLOCK_ROWS", block_rows)
    dataset = prepare_pairs(rows, counted, 8, form)
    assert num_calls == math.ceil(11 * 3 / block_rows) + math.ceil(11 * (3 + 7) / block_rows)
    num_cut = 0
    for row, example in zip(rows.train, dataset.train, strict=True):
        texts = [
            "q " + row.columns["anchor"],
            *("d " + row.columns[name] for name in ("positive", "negative")),
        ]
        alone = [word_tokenizer(text, truncation=True, max_length=8)["input_ids"] for text in texts]
        num_cut += any(len(word_tokenizer(text)["input_ids"]) > 8 for text in texts)
        assert example == Example(
            [token for ids in alone for token in ids],
            [RIGHT],
            [number for number, ids in enumerate(alone) for _ in ids],
        )
    assert dataset.notices == (f"{num_cut} of 11 rows were cut to 8 tokens a text",)


@pytest.mark.parametrize("score", [-0.0001, 0.000001])
def test_no_score_is_taken_for_a_row_without_weight_or_a_pair(
    word_tokenizer: PreTrainedTokenizerFast, score: float
) -> None:
    row = Row(1, {"sentence1": "the cat", "sentence2": "the dog", "score": score})
    example = prepare_pairs(Rows([row], [row], "rows"), word_tokenizer, 8, SentenceForm()).train[0]
    assert example.num_targets == 1
    assert is_scored(example.labels)
    assert example.labels[0] / 1e6 == pytest.approx(score, abs=2e-6)


def test_distractors_are_passages_of_other_rows_and_the_same_every_time() -> None:
    rows = [[f"question {n}", f"passage {n // 2}"] for n in range(40)]
    extended = with_distractors(rows)
    assert extended == with_distractors(rows)
    for row, (question, own, *others) in zip(rows, extended, strict=True):
        assert [question, own] == row
        assert len(others) == 7 == len(set(others))
        assert own not in others


class Letters(nn.Module):
    """A stand-in encoder: the vector of a token is a fixed row of a table."""

    def __init__(self, table: list[list[float]]) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.tensor(table))

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Any:
        class Output:
            last_hidden_state = self.table[input_ids]

        return Output()


def module_of(*table: list[float]) -> EmbeddingModule:
    return EmbeddingModule(Letters([[0.0, 0.0], *table]), uses_first_token=False)


def pair(*tokens: int, label: int = RIGHT) -> Example:
    return Example(list(tokens), [label], list(range(len(tokens))))


def test_the_loss_is_cross_entropy_over_all_passages_of_the_batch() -> None:
    module = module_of([1.0, 0.0], [0.0, 1.0])
    loss, predictions = module.train()(collate_texts([pair(1, 1), pair(2, 2)], 0))
    # Each question: cosine 1 with its own passage, 0 with the other, times 20.
    assert float(loss.detach()) == pytest.approx(2 * math.log(1 + math.exp(-20)), abs=1e-6)
    assert predictions.tolist() == [1, 1]
    wrong, predictions = module(collate_texts([pair(1, 2), pair(2, 1)], 0))
    assert float(wrong.detach()) == pytest.approx(2 * (20 + math.log(1 + math.exp(-20))), rel=1e-5)
    assert predictions.tolist() == [0, 0]


def test_the_same_passage_of_another_row_is_no_wrong_one() -> None:
    module = module_of([1.0, 0.0], [0.0, 1.0])
    loss, _ = module.train()(collate_texts([pair(1, 1), pair(2, 1)], 0))
    assert float(loss.detach()) == pytest.approx(0.0, abs=1e-6)


def test_in_evaluation_a_row_is_ranked_by_itself() -> None:
    module = module_of([1.0, 0.0], [0.0, 1.0], [1.0, 1.0]).eval()
    rows = [pair(1, 3, 2), pair(2, 3, 1), pair(1, 2, 3)]
    together, predictions = module(collate_texts(rows, 0))
    alone = [module(collate_texts([row], 0)) for row in rows]
    assert float(together.detach()) == pytest.approx(sum(float(loss.detach()) for loss, _ in alone))
    assert predictions.tolist() == [int(found) for _, found in alone] == [1, 1, 0]


def test_scored_pairs_have_the_squared_error_of_their_cosine() -> None:
    module = module_of([1.0, 0.0], [0.0, 1.0]).train()
    loss, predictions = module(collate_texts([pair(1, 1, label=500_000), pair(1, 2, label=0)], 0))
    assert float(loss.detach()) == pytest.approx(0.25)
    assert predictions.tolist() == [1_000_000, 0]


def test_a_row_without_weight_adds_nothing() -> None:
    module = module_of([1.0, 0.0], [0.0, 1.0]).train()
    loss, _ = module(collate_texts([weightless(pair(1, 2))], 0))
    assert float(loss.detach()) == 0.0


def test_padding_changes_no_vector() -> None:
    module = module_of([1.0, 0.0], [0.0, 1.0]).eval()
    long = Example([1, 2, 2, 2], [RIGHT], [0, 1, 1, 1])
    alone, _ = module(collate_texts([pair(1, 2)], 0))
    both, _ = module(collate_texts([pair(1, 2), long], 0))
    other, _ = module(collate_texts([long], 0))
    assert float(both.detach()) == pytest.approx(float((alone + other).detach()))


def test_equal_values_share_their_rank_in_the_correlation() -> None:
    assert pair_metrics([3, 1, 2], [30, 10, 20]) == {"spearman": 1.0}
    assert pair_metrics([1, 2, 3], [3, 2, 1]) == {"spearman": -1.0}
    assert pair_metrics([1, 1, 2, 3], [1, 2, 3, 4])["spearman"] == pytest.approx(0.9487, abs=1e-4)


def test_a_row_of_a_folder_is_refused_with_its_file(word_tokenizer: PreTrainedTokenizerFast) -> None:
    good, bad = ({"anchor": text, "positive": "the cat"} for text in ("a", ""))
    rows = Rows([Row(1, good, "part.jsonl"), Row(2, bad, "part.jsonl")], [], "rows")
    with pytest.raises(
        DataError, match=r"training file, part\.jsonl, line 2, anchor: anchor holds no visible"
    ):
        prepare_pairs(rows, word_tokenizer, 8, SentenceForm())
