from __future__ import annotations

import pickle

import pytest

from training.batching import plan_evaluation
from training.config import TaskName
from training.evaluation import Tally, metrics_of, perplexity
from training.examples import IGNORE, Example


def test_eleven_rows_over_two_ranks_are_eleven_predictions() -> None:
    rows = [Example([1] * (1 + number), [number % 2], []) for number in range(11)]
    # The model is wrong on row 0 alone, which a padding sampler would count twice.
    predicted = [1, *(row.labels[0] for row in rows[1:])]
    parts = [Tally(), Tally()]
    for step in plan_evaluation([len(row.input_ids) for row in rows], batch_size=2, world_size=2):
        for rank, part in enumerate(parts):
            mine = step.rows[rank][0]
            if mine:
                part.add(0.5 * len(mine), [predicted[i] for i in mine], [rows[i] for i in mine])
    whole = Tally.merge(parts)
    assert whole.num_targets == 11
    assert whole.loss == 0.5
    metrics = metrics_of(TaskName.CLASSIFICATION, whole, num_labels=2)
    assert metrics["accuracy"] == pytest.approx(10 / 11)
    assert metrics["f1"] == pytest.approx(2 * 5 / (2 * 5 + 1))


def test_loss_is_a_mean_over_targets_and_not_over_batches() -> None:
    tally = Tally()
    tally.add(8.0, [7] * 4, [Example([1] * 5, [IGNORE, 1, 1, 1, 1], [])])
    tally.add(1.0, [7], [Example([1] * 2, [IGNORE, 1], [])])
    assert tally.num_targets == 5
    assert tally.loss == pytest.approx(9 / 5)
    for task in (TaskName.SFT, TaskName.MLM):
        assert metrics_of(task, tally, num_labels=0) == {"perplexity": perplexity(tally.loss)}


def test_predictions_of_tokens_are_not_kept_for_all_ranks() -> None:
    tally = Tally()
    tally.add(8.0, [7] * 4, [Example([1] * 5, [IGNORE, 1, 1, 1, 1], [])])
    assert tally.predictions == []
    assert len(pickle.dumps(tally)) < 200


def test_perplexity_is_e_to_the_loss() -> None:
    assert perplexity(0.0) == 1.0
    assert perplexity(1.0) == pytest.approx(2.718281828)
    assert perplexity(10_000.0) > 1e300


def test_merging_leaves_the_parts_as_they_were() -> None:
    part = Tally(loss_sum=1.0, num_targets=2, predictions=[1], labels=[0])
    whole = Tally.merge([part, part])
    assert (whole.loss_sum, whole.num_targets, whole.predictions, whole.labels) == (2.0, 4, [1, 1], [0, 0])
    assert part.predictions == [1]


def test_a_tally_of_nothing_has_no_loss() -> None:
    assert Tally.merge([]).loss == 0.0
