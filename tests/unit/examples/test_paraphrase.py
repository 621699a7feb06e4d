"""The pairs in examples/paraphrase: up to date, balanced, leak-free, unsolved by surface cues."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType

import pytest

FOLDER = Path(__file__).resolve().parents[3] / "examples" / "paraphrase"
HEADER = "sentence\tparaphrase\tnear_miss\n"
MAX_CUE_ACCURACY = 0.70
Row = tuple[str, str, int]


def load_script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("paraphrase_make", FOLDER / "make.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up there
    spec.loader.exec_module(module)
    return module


make = load_script()


def rows_of(name: str) -> list[Row]:
    header, *lines = (FOLDER / name).read_text(encoding="utf-8").splitlines()
    assert header == "sentence1\tsentence2\tlabel"
    cells = [line.split("\t") for line in lines]
    return [(first, second, int(label)) for first, second, label in cells]


def all_rows() -> list[Row]:
    return rows_of("train.tsv") + rows_of("test.tsv")


def words(sentence: str) -> list[str]:
    return re.findall(r"[\w']+", sentence.lower())


def jaccard(first: str, second: str) -> float:
    """Shared words over all words; "a b" and "b c" give 1/3."""
    one, other = set(words(first)), set(words(second))
    return len(one & other) / len(one | other)


def best_threshold_accuracy(scores: Sequence[float], labels: Sequence[int]) -> float:
    """The highest accuracy of "equivalent from this score on", or of its opposite, over all thresholds."""
    best = 0.0
    for threshold in set(scores):
        accuracy = sum((s >= threshold) == bool(y) for s, y in zip(scores, labels, strict=True)) / len(labels)
        best = max(best, accuracy, 1 - accuracy)
    return best


def same_first_word(first: str, second: str) -> float:
    return float(words(first)[0] == words(second)[0])


def same_last_word(first: str, second: str) -> float:
    return float(words(first)[-1] == words(second)[-1])


def length_difference(first: str, second: str) -> float:
    return float(abs(len(words(first)) - len(words(second))))


def test_the_files_on_disk_are_what_the_seeds_give() -> None:
    assert make.main(["--check"]) == 0


@pytest.mark.parametrize("name", ["train.tsv", "test.tsv"])
def test_each_file_has_as_many_equivalent_as_other_pairs(name: str) -> None:
    labels = [label for _, _, label in rows_of(name)]
    assert labels.count(1) == labels.count(0) == len(labels) / 2


def test_about_a_fifth_of_the_pairs_are_test_pairs() -> None:
    assert 0.15 < len(rows_of("test.tsv")) / len(all_rows()) < 0.25


def test_no_sentence_is_in_both_train_and_test() -> None:
    train, test = (
        {" ".join(words(sentence)) for row in rows_of(name) for sentence in row[:2]}
        for name in ("train.tsv", "test.tsv")
    )
    assert not train & test


def test_every_sentence_has_8_to_25_words() -> None:
    sentences = {sentence for row in all_rows() for sentence in row[:2]}
    assert [s for s in sentences if not 8 <= len(s.split()) <= 25] == []


def test_about_half_of_the_pairs_of_each_label_are_swapped() -> None:
    seeds = make.parse_seeds((FOLDER / "seeds.tsv").read_text(encoding="utf-8"))
    originals = {seed.sentence for seed in seeds}
    for label in (0, 1):
        swapped = [first not in originals for first, _, y in all_rows() if y == label]
        assert 0.4 < sum(swapped) / len(swapped) < 0.6


@pytest.mark.parametrize("cue", [jaccard, same_first_word, same_last_word, length_difference])
def test_a_surface_cue_alone_does_not_give_the_label(cue: Callable[[str, str], float]) -> None:
    rows = all_rows()
    scores = [cue(first, second) for first, second, _ in rows]
    assert best_threshold_accuracy(scores, [label for _, _, label in rows]) < MAX_CUE_ACCURACY


def test_the_jaccard_of_the_docstring_holds() -> None:
    assert jaccard("a b", "b c") == pytest.approx(1 / 3)


def test_a_cue_that_gives_the_label_away_would_be_noticed() -> None:
    assert best_threshold_accuracy([0.9, 0.8, 0.2, 0.1], [0, 0, 1, 1]) == 1.0


def test_adding_a_seed_leaves_every_other_pair_where_it_was() -> None:
    text = (FOLDER / "seeds.tsv").read_text(encoding="utf-8")
    added = text.replace(HEADER, f"{HEADER}One new line.\tA line anew.\tNo new line.\n")
    before, after = make.make(text), make.make(added)
    for name in before:
        assert set(before[name].splitlines()) <= set(after[name].splitlines())


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        pytest.param("A b.\tB a.\tA c.\nD e.\tE d.\n", "line 3: 2 columns", id="a column is missing"),
        pytest.param("A\tb.\tB a.\tA c.\n", "line 2: 4 columns", id="a tab is inside a sentence"),
        pytest.param("A b.\tB a.\tA c.\n\nD e.\tE d.\tD f.\n", "line 3: 1 columns", id="a line is empty"),
        pytest.param("A b.\t\tA c.\n", "line 2: empty", id="a sentence is empty"),
        pytest.param("A b. \tB a.\tA c.\n", "line 2: .*white space", id="a sentence ends with a space"),
        pytest.param("A b.\tB a.\tA c.\r\n", "line 2: .*white space", id="a line ends as on Windows"),
        pytest.param("A b.\ta b\tA c.\n", "line 2: .*already on line 2", id="a row repeats its sentence"),
        pytest.param("A b.\tB a.\tA c.\n" * 2, "line 3: .*already on line 2", id="a row is there twice"),
        pytest.param(
            "A b.\tB a.\tA c.\nD e.\tE d.\tb A.\n", "line 3: .*already on line 2", id="two seeds share one"
        ),
    ],
)
def test_a_fault_in_the_seeds_is_refused_with_its_line(rows: str, message: str) -> None:
    with pytest.raises(make.SeedError, match=message):
        make.parse_seeds(HEADER + rows)


def test_a_wrong_header_is_refused() -> None:
    with pytest.raises(make.SeedError, match="line 1"):
        make.parse_seeds("A b.\tB a.\tA c.\n")


def test_check_says_in_a_sentence_which_file_is_stale(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "seeds.tsv").write_text(HEADER + "A b.\tB a.\tA c.\n", encoding="utf-8")
    assert make.main([], tmp_path) == 0
    assert make.main(["--check"], tmp_path) == 0
    (tmp_path / "test.tsv").write_text("edited by hand\n", encoding="utf-8")
    assert make.main(["--check"], tmp_path) == 1
    assert "test.tsv" in capsys.readouterr().err
    assert (tmp_path / "test.tsv").read_text(encoding="utf-8") == "edited by hand\n"


def test_a_fault_in_the_seeds_ends_the_script_with_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "seeds.tsv").write_text(HEADER + "A b.\tB a.\n", encoding="utf-8")
    assert make.main([], tmp_path) == 1
    assert "seeds.tsv cannot be used: line 2" in capsys.readouterr().err
    assert not (tmp_path / "train.tsv").exists()
