"""What `validate` asks of a row, by task: its faults, its measures, its tokens, and what makes two rows equal."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

import orjson

from cluster.errors import DataError
from training.chat_rows import UNREAD_KEYS
from training.classification_rows import LabelledRows
from training.config import DataConfig, TaskName
from training.faults import Fault
from training.identities import Lines
from training.mlm import mlm_faults
from training.pairs import pair_columns, pair_faults
from training.preferences import OUTPUTS, encode_sides, preference_faults
from training.row_files import Row
from training.sft import encode_row, row_form, sft_faults
from training.tokenizer import FolderTokenizer

# A class this many times as frequent as another one is worth a warning.
IMBALANCE = 10
# Texts of a classifier with fewer characters say too little to be told apart.
NEAR_EMPTY_CHARACTERS = 3


class RowCheck(ABC):
    """The check of one file's rows. Rows come one after the other; `closing_*` after the last."""

    @abstractmethod
    def faults(self, row: Row) -> Iterator[Fault]: ...

    @abstractmethod
    def measures(self, row: Row, tokenizer: FolderTokenizer | None) -> dict[str, int]:
        """What is counted of a sound row: `{"messages": 3, "characters": 120, "tokens": 40}`.

        Tokens only with a tokenizer. Raises DataError when its chat template refuses the row.
        """

    @abstractmethod
    def identity(self, row: Row) -> tuple[bytes, bytes]:
        """`(input, target)`: rows of equal input are duplicates, or contradict each other."""

    def for_validation(self) -> RowCheck:
        """The check of the validation rows that go with these: another one where rows are counted."""
        return self

    def closing_faults(self) -> Iterator[Fault]:
        return iter(())

    def closing_warnings(self) -> Iterator[Fault]:
        return iter(())

    def statistics(self) -> dict[str, Any]:
        """What is told of all rows together beside the measures."""
        return {}


class SftCheck(RowCheck):
    """Chat rows, prompts with completions, and texts."""

    def __init__(self) -> None:
        self._untrained = Lines()

    def faults(self, row: Row) -> Iterator[Fault]:
        return sft_faults(row.columns)

    def measures(self, row: Row, tokenizer: FolderTokenizer | None) -> dict[str, int]:
        counts = _sizes(row.columns)
        messages = row.columns.get("messages") or ()
        if messages and all(m["role"] != "assistant" or m.get("weight") == 0 for m in messages):
            self._untrained.add(row.line)
        if tokenizer is not None:
            example = encode_row(row.columns, tokenizer)
            counts |= {"tokens": len(example.input_ids), "trained_tokens": example.num_targets}
        return counts

    def identity(self, row: Row) -> tuple[bytes, bytes]:
        read = {key: value for key, value in row.columns.items() if key not in UNREAD_KEYS}
        return orjson.dumps(read, default=str, option=orjson.OPT_SORT_KEYS), b""

    def for_validation(self) -> SftCheck:
        return SftCheck()

    def closing_warnings(self) -> Iterator[Fault]:
        if self._untrained.count:
            yield self._untrained.warning(
                "{} without a trained answer (weight 0 throughout), and left out", "give an answer weight 1"
            )


class PreferenceCheck(RowCheck):
    """Prompts with a preferred answer and another one."""

    def faults(self, row: Row) -> Iterator[Fault]:
        return preference_faults(row.columns)

    def measures(self, row: Row, tokenizer: FolderTokenizer | None) -> dict[str, int]:
        messages = row.columns["input"]["messages"]
        answers = [row.columns[name][0] for name in OUTPUTS]
        longest = max(map(_characters, answers))
        counts = {"messages": len(messages) + 1, "characters": sum(map(_characters, messages)) + longest}
        if tokenizer is not None:
            sides = encode_sides(row.columns, tokenizer)
            # The limit holds for each answer with its prompt, so that the longer counts.
            counts["tokens"] = max(len(side.input_ids) for side in sides)
            counts["trained_tokens"] = sum(side.num_trained_tokens for side in sides)
        return counts

    def identity(self, row: Row) -> tuple[bytes, bytes]:
        # The same two answers with the other one preferred contradict each other.
        given, *answers = (
            orjson.dumps(row.columns[name], default=str, option=orjson.OPT_SORT_KEYS)
            for name in ("input", *OUTPUTS)
        )
        return b"\0".join((given, *sorted(answers))), answers[0]


class ClassificationCheck(RowCheck):
    """Labelled texts and pairs."""

    def __init__(self, rows: LabelledRows) -> None:
        self.rows = rows
        self._near_empty = Lines()

    def faults(self, row: Row) -> Iterator[Fault]:
        return self.rows.faults(row)

    def measures(self, row: Row, tokenizer: FolderTokenizer | None) -> dict[str, int]:
        texts = self._texts(row)
        if any(len(text.strip()) < NEAR_EMPTY_CHARACTERS for text in texts):
            self._near_empty.add(row.line)
        counts = {"characters": sum(map(len, texts))}
        return counts if tokenizer is None else counts | {"tokens": tokenizer.num_tokens(*texts)}

    def identity(self, row: Row) -> tuple[bytes, bytes]:
        label = str(row.columns[self.rows.label_column])
        return "\0".join(self._texts(row)).encode("utf-8", "replace"), label.encode("utf-8", "replace")

    def for_validation(self) -> ClassificationCheck:
        return ClassificationCheck(self.rows.for_validation())

    def closing_faults(self) -> Iterator[Fault]:
        return self.rows.closing_faults()

    def closing_warnings(self) -> Iterator[Fault]:
        if self._near_empty.count:
            yield self._near_empty.warning(
                f"{{}} shorter than {NEAR_EMPTY_CHARACTERS} characters", "check that nothing was cut"
            )
        ranked = self.rows.counts.most_common()
        if len(ranked) > 1 and ranked[0][1] > IMBALANCE * ranked[-1][1]:
            (most, many), (least, few) = ranked[0], ranked[-1]
            yield Fault(
                f"the classes are uneven: {many} rows of {most!r}, {few} of {least!r}",
                f"add rows of {least!r}; accuracy alone will look good without it",
                line=self.rows.first_lines[least],
            )

    def statistics(self) -> dict[str, Any]:
        names = self.rows.labels().index
        return {"classes": {name: self.rows.counts[name] for name in names}}

    def _texts(self, row: Row) -> list[str]:
        return [row.columns[column] for column in self.rows.text_columns]


class TextCheck(RowCheck):
    """Texts for masked language modelling."""

    def faults(self, row: Row) -> Iterator[Fault]:
        return mlm_faults(row.columns)

    def measures(self, row: Row, tokenizer: FolderTokenizer | None) -> dict[str, int]:
        text = row.columns["text"]
        counts = {"characters": len(text)}
        return counts if tokenizer is None else counts | {"tokens": tokenizer.num_tokens(text)}

    def identity(self, row: Row) -> tuple[bytes, bytes]:
        return row.columns["text"].encode("utf-8", "replace"), b""


class PairCheck(RowCheck):
    """Pairs, triplets and scored pairs, all rows like the first."""

    def __init__(self, columns: tuple[str, ...]) -> None:
        self._columns = columns

    def faults(self, row: Row) -> Iterator[Fault]:
        return pair_faults(row.columns, self._columns)

    def measures(self, row: Row, tokenizer: FolderTokenizer | None) -> dict[str, int]:
        texts = [row.columns[name] for name in self._columns if name != "score"]
        counts = {"characters": max(map(len, texts))}
        # The limit holds for each text, so that the longest counts.
        return counts if tokenizer is None else counts | {"tokens": max(map(tokenizer.num_tokens, texts))}

    def identity(self, row: Row) -> tuple[bytes, bytes]:
        return orjson.dumps([row.columns[name] for name in self._columns], default=str), b""


def check_for(first: Row, task: TaskName | None, config: DataConfig) -> tuple[TaskName, RowCheck]:
    """The check of a file that begins with `first`; the task is found by its columns when not given.

    Raises DataError when the columns that the task needs are not there.
    """
    task = task or _task_of(first, config)
    if task is TaskName.CLASSIFICATION:
        return task, ClassificationCheck(LabelledRows.of(first, config))
    if task is TaskName.EMBEDDING:
        return task, PairCheck(pair_columns(first.columns))
    if task is TaskName.DPO:
        return task, PreferenceCheck()
    return task, TextCheck() if task is TaskName.MLM else SftCheck()


def _task_of(first: Row, config: DataConfig) -> TaskName:
    if any(name in first.columns for name in OUTPUTS):
        return TaskName.DPO
    if config.label_column in first.columns and row_form(first.columns) != "messages":
        return TaskName.CLASSIFICATION
    if row_form(first.columns) is not None:
        return TaskName.SFT
    try:
        pair_columns(first.columns)
    except DataError:
        return TaskName.SFT  # whose report says which forms there are
    return TaskName.EMBEDDING


def _sizes(columns: dict[str, Any]) -> dict[str, int]:
    if row_form(columns) != "messages":
        texts = (columns.get(name) or "" for name in ("prompt", "completion", "text"))
        return {"characters": sum(map(len, texts))}
    messages = columns["messages"]
    return {"messages": len(messages), "characters": sum(map(_characters, messages))}


def _characters(message: dict[str, Any]) -> int:
    content = message.get("content")
    if isinstance(content, str):
        return len(content)
    return sum(len(part["text"]) for part in content or ())
