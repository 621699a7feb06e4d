"""The embedding task: pairs, triplets or scored pairs -> an encoder whose vectors are near where texts belong together.

No torch here: the losses live in `training/encoder_modules.py`.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice, tee
from typing import Any

from cluster.errors import DataError
from training.examples import IGNORE, MILLIONTHS, Dataset, Example, Examples, blocks
from training.faults import Fault, raise_first, text_fault
from training.row_files import Row
from training.sentence_files import SentenceForm
from training.sources import Rows

# Column names people use: of the text that asks, of what belongs to it, and of what does not.
PAIR_COLUMNS = (("anchor", "positive"), ("query", "positive"), ("query", "passage"), ("question", "answer"))
NEGATIVE_COLUMN = "negative"
SCORED_COLUMNS = ("sentence1", "sentence2", "score")
# Wrong passages that each validation question is ranked against. Fixed, so that the figure depends neither
# on batches nor on workers.
NUM_DISTRACTORS = 7
# The label of a pair without a score: the passage in first place is the right one.
RIGHT = 1

# The texts of a row, and its label.
Pair = tuple[list[str], int]


def pair_columns(columns: Mapping[str, Any]) -> tuple[str, ...]:
    """The columns of a row in order: texts, then the score where there is one.

    Raises DataError where no usual set is there.
    """
    if all(name in columns for name in SCORED_COLUMNS):
        return SCORED_COLUMNS
    for names in PAIR_COLUMNS:
        if all(name in columns for name in names):
            return (*names, NEGATIVE_COLUMN) if columns.get(NEGATIVE_COLUMN) is not None else names
    raise DataError(
        f"no pairs among {', '.join(map(str, columns))}; name the columns anchor and positive (and negative), "
        "or sentence1, sentence2 and score"
    )


def pair_faults(columns: Mapping[str, Any], expected: tuple[str, ...]) -> Iterator[Fault]:
    """What is wrong with a row that should hold the `expected` columns."""
    for name in expected:
        if name != "score":
            yield from text_fault(columns, name)
        elif score_of(columns) is None:
            yield Fault(
                f"score must be a number from -1 to 1, found {columns.get('score')!r}",
                "correct it",
                ("score",),
            )


def score_of(columns: Mapping[str, Any]) -> float | None:
    """The score of a scored pair, from tables (text) as from JSON; None when it is none."""
    try:
        score = float(columns["score"])
    except (KeyError, TypeError, ValueError):
        return None
    return score if -1 <= score <= 1 else None


def prepare_pairs(rows: Rows, tokenizer: Any, max_length_tokens: int, form: SentenceForm) -> Dataset:
    """Tokenise rows. The texts of a row stand one after the other, told apart by `segment_ids`.

    The first has the query's prompt, the others have the document's, as in a search.
    """
    names = pair_columns(next(iter(rows.train)).columns)
    train, cut = _encode(_pairs(rows.train, names, "training file"), tokenizer, max_length_tokens, form)
    held_out: Iterable[Pair] = _pairs(rows.validation, names, rows.validation_file)
    if names != SCORED_COLUMNS:  # any text may stand beside any other, so here they lie in memory together
        held_out = [(texts, RIGHT) for texts in with_distractors([texts for texts, _ in held_out])]
    validation, _ = _encode(held_out, tokenizer, max_length_tokens, form)
    notices = [f"{cut} of {len(train)} rows were cut to {max_length_tokens} tokens a text"] if cut else []
    return Dataset(train, validation, (), tuple(notices))


def with_distractors(rows: Sequence[list[str]]) -> list[list[str]]:
    """Each row with passages of other rows behind its own, drawn by its question: the same for every run. Pure."""
    passages = list(dict.fromkeys(row[1] for row in rows))
    result = []
    for row in rows:
        # As many more as could be its own.
        drawn = random.Random(row[0]).sample(passages, min(len(passages), NUM_DISTRACTORS + len(row)))
        others = [passage for passage in drawn if passage not in row]
        result.append([*row, *others[:NUM_DISTRACTORS]])
    return result


def is_scored(labels: Sequence[int]) -> bool:
    """Whether labels are scores. A row without weight has none to tell by."""
    return any(label not in (RIGHT, IGNORE) for label in labels)


def pair_metrics(predictions: Sequence[int], labels: Sequence[int]) -> dict[str, float]:
    """How well vectors order texts.

    Of pairs, accuracy: the share of validation questions whose own passage is nearer than each of the
    wrong ones beside it. Of scored pairs, Spearman's rank correlation of cosine and score: the correlation
    of their ranks, equal values sharing their mean rank (Spearman 1904).

    >>> pair_metrics([1, 0, 1, 1], [1, 1, 1, 1])
    {'accuracy': 0.75}
    >>> pair_metrics([10, 20, 30], [1, 2, 3])
    {'spearman': 1.0}
    """
    if not is_scored(labels):
        return {"accuracy": sum(predictions) / len(predictions)}
    return {"spearman": _correlation(_ranks(predictions), _ranks(labels))}


def _pairs(rows: Iterable[Row], names: tuple[str, ...], what: str) -> Iterator[Pair]:
    for row in rows:
        raise_first(pair_faults(row.columns, names), f"{what}, {row.where}")
        score = score_of(row.columns) if names == SCORED_COLUMNS else None
        yield [row.columns[name] for name in names if name != "score"], _label_of(score)


def _label_of(score: float | None) -> int:
    if score is None:
        return RIGHT
    label = round(score * MILLIONTHS)
    # A millionth more, where the number means something else.
    return label + 1 if label in (RIGHT, IGNORE) else label


def _encode(
    rows: Iterable[Pair], tokenizer: Any, max_length_tokens: int, form: SentenceForm
) -> tuple[Examples, int]:
    """The examples of all rows, and of how many a text was cut."""
    num_cut = 0

    def encoded() -> Iterator[Example]:
        nonlocal num_cut
        given, labelled = tee(rows)
        texts = (text for (query, *passages), _ in given for text in _prompted(query, passages, form))
        tokens = _tokens(texts, tokenizer, max_length_tokens)
        for own, label in labelled:
            found, is_cut = zip(*islice(tokens, len(own)), strict=True)
            num_cut += any(is_cut)
            segments = [number for number, ids in enumerate(found) for _ in ids]
            yield Example(list(chain.from_iterable(found)), [label], segments)

    return Examples.of(encoded()), num_cut


def _prompted(query: str, passages: Iterable[str], form: SentenceForm) -> list[str]:
    return [form.query_prompt + query, *(form.document_prompt + text for text in passages)]


def _tokens(
    texts: Iterable[str], tokenizer: Any, max_length_tokens: int
) -> Iterator[tuple[Sequence[int], bool]]:
    """The ids of each text, and whether it was cut."""
    # Blocks of texts, not of rows: a validation row has as many texts as distractors stand in it.
    for block in blocks(texts):
        found = tokenizer(block, truncation=True, max_length=max_length_tokens)
        is_cut = [bool(encoding.overflowing) for encoding in found.encodings or ()] or [False] * len(block)
        yield from zip(found["input_ids"], is_cut, strict=True)


def _ranks(values: Sequence[int]) -> list[float]:
    order = sorted(values)
    first = {value: index for index, value in reversed(list(enumerate(order)))}
    count = Counter(order)
    return [first[value] + (count[value] - 1) / 2 for value in values]


def _correlation(xs: Sequence[float], ys: Sequence[float]) -> float:
    mean_x, mean_y = sum(xs) / len(xs), sum(ys) / len(ys)
    products = sum((x - mean_x) * (y - mean_y) for x, y in zip(xs, ys, strict=True))
    spread = (sum((x - mean_x) ** 2 for x in xs) * sum((y - mean_y) ** 2 for y in ys)) ** 0.5
    return float(products / spread) if spread else 0.0
