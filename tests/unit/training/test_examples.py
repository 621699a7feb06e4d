"""Tokenised rows in flat arrays: they read as the rows they were made of."""

from __future__ import annotations

import pickle
import tracemalloc
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import Unavailable
from cluster.settings import settings
from training import ragged
from training.examples import IGNORE, Dataset, Example, Examples, Preference

NUMBERS = st.lists(st.integers(-(2**31), 2**31 - 1), max_size=5)
ROWS = st.lists(st.builds(Example, NUMBERS, NUMBERS, NUMBERS), max_size=5)


@given(ROWS)
def test_rows_read_as_they_were_also_from_another_process(rows: list[Example]) -> None:
    examples = pickle.loads(pickle.dumps(Examples.of(iter(rows))))
    assert list(examples) == rows
    assert len(examples) == len(rows)
    assert examples[1:3] == rows[1:3]
    assert examples.lengths == [len(row.input_ids) for row in rows]


@pytest.mark.parametrize("kind", [Example, Preference])
@pytest.mark.parametrize("at_once", [1, 2, 10])
def test_all_rows_are_counted_as_one_by_one(
    monkeypatch: pytest.MonkeyPatch, kind: type[Example], at_once: int
) -> None:
    monkeypatch.setattr(ragged, "COUNTED_AT_ONCE", at_once)
    labels = [[IGNORE, 5, 6], [IGNORE], [7], [], [IGNORE, 8]]
    examples = Examples.of(kind([1] * len(each), each, [0, 0, 1]) for each in labels)
    assert examples.num_trained_tokens.tolist() == [row.num_trained_tokens for row in examples]
    assert examples.num_targets.tolist() == [row.num_targets for row in examples]
    assert examples.num_segments.tolist() == [2] * 5
    assert Examples.of([]).num_targets.tolist() == []


def test_numbers_of_an_example_are_pythons_own() -> None:
    (example,) = Examples.of([Example([5, 6], [IGNORE, 6], [])])
    assert [type(number) for number in (*example.input_ids, *example.labels)] == [int] * 4


def test_a_row_from_the_end_and_one_that_is_not_there() -> None:
    examples = Examples.of([Example([1], [1], []), Example([2], [0], [])])
    assert examples[-1].input_ids == [2]
    with pytest.raises(IndexError):
        examples[2]


def test_preferences_stay_preferences() -> None:
    """One row is one term of the loss, whatever number of tokens it trains."""
    row = Preference([1, 2, 1, 3], [IGNORE, 2, IGNORE, 3], [0, 0, 1, 1])
    assert Examples.of([row])[0] == row
    assert Examples.of([row])[0].num_targets == 1


def test_saved_preferences_stay_preferences(tmp_path: Path) -> None:
    examples = Examples.of([Preference([1, 2], [IGNORE, 2], [0, 1])])
    Dataset(examples, examples).save(tmp_path / "kept")
    assert type(Dataset.load(tmp_path / "kept").train[0]) is Preference


@given(ROWS, ROWS)
def test_a_data_set_is_the_same_once_saved_and_read_again(
    train: list[Example], validation: list[Example]
) -> None:
    made = Dataset(Examples.of(train), Examples.of(validation), ("a", "b"), ("a notice",), (0.1, 1.9))
    with TemporaryDirectory() as scratch:
        made.save(Path(scratch) / "kept")
        read = Dataset.load(Path(scratch) / "kept")
        assert (list(read.train), list(read.validation)) == (train, validation)
        assert (read.labels, read.notices, read.class_weights) == (
            made.labels,
            made.notices,
            made.class_weights,
        )


def test_tokens_lie_on_disk_and_not_in_memory() -> None:
    rows = (Example([token] * 1000, [token] * 1000, []) for token in range(1000))
    tracemalloc.start()
    try:
        examples = Examples.of(rows)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert examples[-1].input_ids == [999] * 1000
    assert peak_bytes < 2**20  # 8 MB of tokens


def test_tokens_go_to_an_object_store_without_another_copy() -> None:
    buffers: list[pickle.PickleBuffer] = []
    examples = Examples.of([Example([1, 2], [IGNORE, 2], [])])
    pickle.dumps(examples, protocol=5, buffer_callback=buffers.append)
    assert sum(buffer.raw().nbytes for buffer in buffers) == 2 * 2 * 4 + 3 * 2 * 8


def test_a_full_disk_is_told_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    # Without a buffer, which would fail once more when it is let go.
    monkeypatch.setattr(ragged.RaggedFile, "_add_offset", lambda _: None)
    with Path("/dev/full").open("w+b", buffering=0) as full:
        monkeypatch.setattr(ragged, "TemporaryFile", lambda dir: full)
        with pytest.raises(Unavailable, match=r"cannot write tokens to .* \(No space left on device\); free"):
            Examples.of([Example([1], [1], [])])


def test_no_file_of_tokens_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HAMLET_HOME", str(tmp_path))
    settings.cache_clear()
    Examples.of([Example([1], [1], [])])
    assert list((tmp_path / "cache" / "tokens").iterdir()) == []


def test_a_number_takes_four_bytes_on_the_way_to_a_worker() -> None:
    rows = [Example([token] * 1000, [token] * 1000, []) for token in range(1000, 1100)]
    assert len(pickle.dumps(Examples.of(rows))) < 4.1 * 2 * 100 * 1000
