from __future__ import annotations

import json

import pytest

from training.class_report import SHOWN, confusion_of, figures_by_class, report_json, report_text

NAMES = ("ham", "spam", "eggs", "never")
# Eggs are never predicted, and no row is of the last class.
LABELS = [0, 0, 0, 0, 1, 1, 2]
PREDICTIONS = [0, 0, 0, 1, 1, 0, 1]
CONFUSION = {"ham": {"ham": 3, "spam": 1}, "spam": {"ham": 1, "spam": 1}, "eggs": {"spam": 1}}


def test_precision_recall_and_f1_are_those_of_a_known_example() -> None:
    assert confusion_of(PREDICTIONS, LABELS, NAMES) == CONFUSION
    ham, spam, eggs, never = figures_by_class(CONFUSION, NAMES)
    assert (ham.precision, ham.recall, ham.f1, ham.support) == (0.75, 0.75, 0.75, 4)
    assert (spam.precision, spam.recall, spam.support) == (pytest.approx(1 / 3), 0.5, 2)
    assert spam.f1 == pytest.approx(0.4)
    assert (eggs.precision, eggs.recall, eggs.f1, eggs.support) == (0.0, 0.0, 0.0, 1)
    assert (never.f1, never.support) == (0.0, 0)


def test_the_report_survives_json_with_every_class_in_it() -> None:
    report = json.loads(json.dumps(report_json(CONFUSION, NAMES)))
    assert [one["name"] for one in report["classes"]] == list(NAMES)
    assert report["confusion"] == CONFUSION


def test_the_text_has_a_line_for_each_class_and_the_matrix_with_its_zeros() -> None:
    assert report_text({"a|b": {"a|b": 2}, "c": {"a|b": 1}}, ["a|b", "c"]) == (
        "| class | precision | recall |     F1 | rows |\n"
        "| ----- | --------: | -----: | -----: | ---: |\n"
        "| a\\|b  |    0.6667 | 1.0000 | 0.8000 |    2 |\n"
        "| c     |    0.0000 | 0.0000 | 0.0000 |    1 |\n"
        "\n"
        "| rows of / predicted as | a\\|b |   c |\n"
        "| ---------------------- | ---: | --: |\n"
        "| a\\|b                   |    2 |   0 |\n"
        "| c                      |    1 |   0 |"
    )


def test_of_many_classes_the_worst_are_shown_and_nothing_grows_with_their_square() -> None:
    names = [f"class {number}" for number in range(500)]
    labels = list(range(500))
    predictions = [*range(1, 31), *range(30, 500)]
    confusion = confusion_of(predictions, labels, names)
    assert sum(map(len, confusion.values())) == 500
    lines = report_text(confusion, names).splitlines()
    assert len(lines) == SHOWN + 4
    assert all(" 0.0000 |" in line for line in lines[2 : SHOWN + 2])
    assert lines[-1] == "The 20 of 500 classes with the lowest F1."
