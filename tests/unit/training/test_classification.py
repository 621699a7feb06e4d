from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from cluster.errors import DataError
from training.classification import balanced_weights, classification_metrics, prepare_classification
from training.classification_rows import LabelledRows, Labels, find_text_columns
from training.config import DataConfig
from training.examples import Dataset
from training.faults import raise_first
from training.row_files import Row
from training.sources import Rows

CONFIG = DataConfig(path="rows.tsv")
TEXT = ("text",)


def find_labels(rows: list[Row], column: str, text_columns: tuple[str, ...]) -> Labels:
    """The labels of rows, or the first fault as a run raises it."""
    check = LabelledRows(text_columns, column)
    for row in rows:
        whole = replace(row, columns={**dict.fromkeys(text_columns, "the cat"), **row.columns})
        raise_first(check.faults(whole), f"rows.tsv, {row.where}")
    raise_first(check.closing_faults(), "rows.tsv")
    return check.labels()


def labelled(*labels: Any) -> list[Row]:
    """Rows whose labels are `labels`, the first at line 2 as in a table."""
    return [Row(line, {"text": "the cat", "label": label}) for line, label in enumerate(labels, 2)]


def test_rows_of_a_negative_label_are_counted_and_refused_by_line() -> None:
    labels = ["0", "1"] * 10
    for index in (4, 9, 14):
        labels[index] = "-1"
    with pytest.raises(
        DataError, match=r"3 rows have label -1 \(unlabelled\?\), the first at line 6; remove"
    ):
        find_labels(labelled(*labels), "label", TEXT)


@pytest.mark.parametrize("label", [-1, -1.0, "-1", "-1.0", -100])
def test_an_unlabelled_row_is_known_in_every_form_of_number(label: Any) -> None:
    with pytest.raises(DataError, match=r"1 rows have label -1"):
        find_labels(labelled(0, 1, label), "label", TEXT)


def test_classes_need_not_begin_at_zero_and_keep_their_names() -> None:
    labels = find_labels(labelled(3, 1, 4, 2, 10), "label", TEXT)
    assert labels.names == ("1", "2", "3", "4", "10")
    assert labels.index == {"1": 0, "2": 1, "3": 2, "4": 3, "10": 4}


def test_a_column_that_gaps_turned_into_floats_has_the_same_classes() -> None:
    assert find_labels(labelled(1.0, 0.0), "label", TEXT) == find_labels(labelled("0", 1), "label", TEXT)


def test_words_are_classes_in_alphabetical_order() -> None:
    assert find_labels(labelled("pos", "neg", " pos "), "label", TEXT).names == ("neg", "pos")
    assert find_labels(labelled("--5", "²", "x"), "label", TEXT).names == ("--5", "x", "²")
    assert find_labels(labelled(True, False), "label", TEXT).names == ("False", "True")


def test_pairs_labelled_like_the_paraphrase_corpus_get_its_class_names() -> None:
    pair = ("sentence1", "sentence2")
    assert find_labels(labelled("1", "0"), "label", pair).names == ("not_equivalent", "equivalent")
    assert find_labels(labelled("1", "0"), "label", TEXT).names == ("0", "1")
    assert find_labels(labelled("1", "2"), "label", pair).names == ("1", "2")


@pytest.mark.parametrize("label", [None, "", "  ", float("nan")])
def test_a_row_without_a_label_is_refused_by_line(label: Any) -> None:
    with pytest.raises(DataError, match="line 4, label: no label; label the row"):
        find_labels(labelled("a", "b", label), "label", TEXT)


@pytest.mark.parametrize("label", [["a", "b"], {"a": 1}, b"a"])
def test_a_row_of_several_labels_is_refused_by_line(label: Any) -> None:
    with pytest.raises(DataError, match=r"line 4, label: the label must be a text or a number, found .*a"):
        find_labels(labelled("a", "b", label), "label", TEXT)


def test_one_class_is_too_few() -> None:
    with pytest.raises(DataError, match="all rows have the label 'a'; a classifier needs two classes"):
        find_labels(labelled("a", "a"), "label", TEXT)


def test_a_missing_label_column_is_named_with_those_there_are() -> None:
    with pytest.raises(DataError, match=r"no column 'y' among .*label; name it with data.label_column="):
        LabelledRows.of(labelled("a", "b")[0], CONFIG.model_copy(update={"label_column": "y"}))


@pytest.mark.parametrize(
    ("have", "found"),
    [
        (("sentence1", "sentence2", "label"), ("sentence1", "sentence2")),
        (("question2", "question1"), ("question1", "question2")),
        (("text", "label", "id"), ("text",)),
        (("text", "text_pair"), ("text", "text_pair")),
    ],
)
def test_text_columns_are_found_by_their_usual_names(have: tuple[str, ...], found: tuple[str, ...]) -> None:
    assert find_text_columns(have) == found


def test_configured_text_columns_come_first_and_must_exist() -> None:
    row = Row(1, {"text": "x", "body": "y", "label": "0"})
    assert find_text_columns(row.columns, ("body",)) == ("body",)
    with pytest.raises(DataError, match="names title, but the file has body, label, text"):
        find_text_columns(row.columns, ("title", "text"))
    with pytest.raises(DataError, match="no text columns among a, b; name them"):
        find_text_columns(["a", "b"])


def prepare(
    rows: list[Row], tokenizer: PreTrainedTokenizerFast, validation: list[Row] | None = None, limit: int = 32
) -> Dataset:
    return prepare_classification(Rows(rows, validation or rows, "rows.tsv"), CONFIG, tokenizer, limit)


def test_a_single_text_becomes_ids_and_its_class(word_tokenizer: PreTrainedTokenizerFast) -> None:
    dataset = prepare(labelled("b", "a"), word_tokenizer)
    assert dataset.labels == ("a", "b")
    assert [example.labels for example in dataset.train] == [[1], [0]]
    assert dataset.train[0].input_ids == word_tokenizer("the cat")["input_ids"]
    assert dataset.train[0].segment_ids == []
    assert dataset.train[0].num_targets == 1


def test_a_pair_carries_the_segment_of_each_token(word_tokenizer: PreTrainedTokenizerFast) -> None:
    rows = [Row(2 + n, {"sentence1": "the cat", "sentence2": "a dog ran", "label": str(n)}) for n in range(2)]
    example = prepare(rows, word_tokenizer).train[0]
    assert word_tokenizer.decode(example.input_ids) == "[CLS] the cat [SEP] a dog ran [SEP]"
    assert example.segment_ids == [0, 0, 0, 0, 1, 1, 1, 1]


def test_rows_cut_to_the_limit_are_counted(word_tokenizer: PreTrainedTokenizerFast) -> None:
    rows = labelled("a", "b", "a")
    rows[0].columns["text"] = "the cat sat"  # 5 tokens: exactly the limit, and whole
    rows[1].columns["text"] = "the cat sat the dog ran"
    dataset = prepare(rows, word_tokenizer, limit=5)
    assert max(len(example.input_ids) for example in dataset.train) == 5
    assert dataset.notices == ("1 of 3 rows were cut to 5 tokens",)


@pytest.mark.parametrize("text", [None, "", "  ", 7])
def test_a_row_without_text_is_refused_by_file_and_line(
    word_tokenizer: PreTrainedTokenizerFast, text: Any
) -> None:
    rows = labelled("a", "b")
    bad = [Row(9, {"text": text, "label": "a"})]
    with pytest.raises(
        DataError, match=r"training file, line 9, text: text (must be text, found|holds no visible)"
    ):
        prepare([*rows, *bad], word_tokenizer)
    with pytest.raises(
        DataError, match=r"validation file, line 9, text: text (must be text, found|holds no visible)"
    ):
        prepare(rows, word_tokenizer, validation=bad)


def test_a_row_of_a_folder_is_refused_with_its_file(word_tokenizer: PreTrainedTokenizerFast) -> None:
    bad = Row(3, {"text": "", "label": "a"}, "b/part.tsv")
    with pytest.raises(DataError, match=r"training file, b/part\.tsv, line 3, text: text holds no visible"):
        prepare([*labelled("a", "b"), bad], word_tokenizer)


def test_a_validation_label_that_training_never_saw_is_refused(
    word_tokenizer: PreTrainedTokenizerFast,
) -> None:
    expected = (
        r"validation file, line 3, label: label 'c' does not occur in the training rows \(known: a, b\)"
    )
    with pytest.raises(DataError, match=expected):
        prepare(labelled("a", "b"), word_tokenizer, validation=labelled("a", "c"))


def test_f1_of_several_classes_is_their_unweighted_mean() -> None:
    metrics = classification_metrics([0, 1, 2, 2], [0, 2, 2, 1], num_labels=3)
    # Class 0: 2/2 = 1. Class 1: 0. Class 2: 2 x 1 / (2 + 2) = 0.5.
    assert metrics == {"accuracy": 0.5, "f1": 0.5}
    # A class neither predicted nor present counts 0.
    assert classification_metrics([0, 1], [0, 1], num_labels=4)["f1"] == 0.5


def test_f1_without_a_positive_row_is_zero() -> None:
    assert classification_metrics([0, 0], [0, 0], num_labels=2) == {"accuracy": 1.0, "f1": 0.0}


def test_balanced_weights_are_positive_and_one_on_average() -> None:
    weights = balanced_weights({"a": 95, "b": 5})
    assert weights == pytest.approx((0.526, 10.0), abs=1e-3)
    assert 95 * weights[0] + 5 * weights[1] == pytest.approx(100)
    assert balanced_weights({"a": 7, "b": 7, "c": 7}) == (1.0, 1.0, 1.0)


def test_a_class_without_training_rows_is_refused_by_name() -> None:
    with pytest.raises(DataError, match="class_weight=balanced: no training row has the label b; add rows"):
        balanced_weights({"a": 95, "b": 0})


def test_an_unknown_class_is_told_beside_some_of_those_that_are_known() -> None:
    check = LabelledRows.of(labelled("a")[0], CONFIG)
    for row in labelled(*(f"class {number}" for number in range(30))):
        assert not list(check.faults(row))
    (fault,) = check.for_validation().faults(labelled("other")[0])
    assert fault.reason.startswith(
        "label 'other' does not occur in the training rows (known: class 0, class 1, "
    )
    assert fault.reason.endswith(" and 10 more)")
