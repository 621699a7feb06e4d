"""The supervised fine-tuning task: chat rows, prompts with completions, or plain text -> a model that writes so.

No torch here: the loss lives in `training/language_modules.py`.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import Any

from cluster.errors import DataError
from training.chat import Rendered, Segment, encode, render
from training.chat_rows import chat_faults
from training.examples import IGNORE, Dataset, Example, Examples, blocks
from training.faults import Fault, raise_first, text_fault
from training.row_files import Row
from training.sources import Rows

Columns = Mapping[str, Any]

FORM_KEYS = ("messages", "prompt", "completion", "text")


@dataclass(frozen=True, slots=True)
class RowCoding:
    """How a task's rows become examples.

    faults:   what is wrong with the columns of a row
    render:   the texts that a sound row becomes, for a tokenizer; raises DataError where its template refuses it
    examples: what is trained of a row, by its columns, those texts tokenised, and the limit of tokens
    """

    faults: Callable[[Columns], Iterator[Fault]]
    render: Callable[[Columns, Any], Sequence[Rendered]]
    examples: Callable[[Columns, Sequence[Example], int], Sequence[Example]]

    def encode(self, columns: Columns, tokenizer: Any, max_length_tokens: int) -> Sequence[Example]:
        """The examples of one row."""
        encoded = encode(self.render(columns, tokenizer), tokenizer)
        return self.examples(columns, encoded, max_length_tokens)


def sft_faults(columns: Columns) -> Iterator[Fault]:
    """Everything wrong with one row, in whichever of the three forms it is."""
    form = row_form(columns)
    if form == "messages":
        yield from chat_faults(columns)
    elif form == "prompt":
        yield from text_fault(columns, "prompt", may_be_empty=True)
        yield from text_fault(columns, "completion")
    elif form == "text":
        yield from text_fault(columns, "text")
    else:
        found = ", ".join(map(str, columns)) or "no key"
        near = [m for key in columns for m in difflib.get_close_matches(str(key), FORM_KEYS, n=1)]
        remedy = f"did you mean {near[0]}?" if near else "write messages, or prompt and completion, or text"
        yield Fault(f"a row needs messages, prompt and completion, or text; it has {found}", remedy)


def row_form(columns: Columns) -> str | None:
    """`messages`, `prompt` or `text`: the form of a row; None for none of them."""
    if columns.get("messages") is not None:
        return "messages"
    if "prompt" in columns or "completion" in columns:
        return "prompt"
    return next((form for form in ("text", "messages") if form in columns), None)


def encode_row(columns: Columns, tokenizer: Any) -> Example:
    """Token ids and labels of a checked row, of any length."""
    return encode([render_row(columns, tokenizer)], tokenizer)[0]


def render_row(columns: Columns, tokenizer: Any) -> Rendered:
    """A checked row as text.

    Chat rows go through the model's template. Prompts, completions and text are written as they stand, as
    `/v1/completions` reads them: behind the tokenizer's own beginning, closed by the end token. Of a prompt
    with its completion the completion is trained, of a text all.
    """
    if row_form(columns) == "messages":
        require_template(tokenizer)
        return Rendered(render(columns["messages"], tokenizer, columns.get("tools")))
    if row_form(columns) == "prompt":
        prompt, text = columns["prompt"], columns["completion"]
    else:
        prompt, text = "", columns["text"]
    segments = [
        Segment(prompt, is_trained=False),
        Segment(text + (tokenizer.eos_token or ""), is_trained=True),
    ]
    return Rendered(segments, _beginning(tokenizer))


def sft_examples(columns: Columns, encoded: Sequence[Example], max_length_tokens: int) -> list[Example]:
    """The examples that an encoded row becomes: none, one, or the pieces of a long text.

    A chat or completion that does not fit is left out: cut in its answer it would teach the model never to
    stop, and cut before that it teaches nothing. A plain text is cut into pieces instead.
    """
    (example,) = encoded
    if row_form(columns) == "text":
        return [piece for piece in _pieces(example, max_length_tokens) if piece.num_targets]
    return [example] if fits(example, max_length_tokens) else []


SFT = RowCoding(sft_faults, lambda columns, tokenizer: [render_row(columns, tokenizer)], sft_examples)


def prepare_sft(rows: Rows, tokenizer: Any, max_length_tokens: int) -> Dataset:
    """Render and tokenise rows; rows that do not fit whole are left out, and told."""
    return encode_rows(rows, SFT, tokenizer, max_length_tokens)


def encode_rows(rows: Rows, coding: RowCoding, tokenizer: Any, max_length_tokens: int) -> Dataset:
    """The examples of all rows.

    Raises DataError naming file and line at the first fault, and where no row gives an example.
    """
    train, told = _encode_all(rows.train, "training", coding, tokenizer, max_length_tokens)
    validation, told_too = _encode_all(rows.validation, "validation", coding, tokenizer, max_length_tokens)
    return Dataset(train, validation, (), (*told, *told_too))


def fits(example: Example, max_length_tokens: int) -> bool:
    """Whether a row is used: it fits whole, and some of it is trained."""
    return len(example.input_ids) <= max_length_tokens and example.num_targets > 0


def require_template(tokenizer: Any) -> None:
    if not tokenizer.chat_template:
        raise DataError("the base model has no chat template; use an instruct model for chat rows", "model")


def _encode_all(
    rows: Iterable[Row], what: str, coding: RowCoding, tokenizer: Any, max_length_tokens: int
) -> tuple[Examples, list[str]]:
    """The examples of all rows, and what is to be told of those that gave none."""
    num_rows, left_out = 0, 0

    def encoded() -> Iterator[Example]:
        nonlocal num_rows, left_out
        for block in blocks(rows):
            texts = [_render(row, what, coding, tokenizer) for row in block]
            tokens = iter(encode([text for one in texts for text in one], tokenizer))
            for row, one in zip(block, texts, strict=True):
                found = coding.examples(row.columns, list(islice(tokens, len(one))), max_length_tokens)
                num_rows += 1
                left_out += not found
                yield from found

    examples = Examples.of(encoded())
    if not examples:
        raise DataError(
            f"no {what} row has a trained token within {max_length_tokens} tokens; raise max_length_tokens",
            "max_length_tokens",
        )
    notice = (
        f"{left_out} of {num_rows} {what} rows are left out: longer than {max_length_tokens} tokens, or "
        "without a trained answer"
    )
    return examples, [notice] if left_out else []


def _render(row: Row, what: str, coding: RowCoding, tokenizer: Any) -> Sequence[Rendered]:
    where = f"{what} file, {row.where}"
    raise_first(coding.faults(row.columns), where)
    try:
        return coding.render(row.columns, tokenizer)
    except DataError as exc:
        raise DataError(f"{where}: {exc.message}", exc.param) from exc


@lru_cache(maxsize=1)  # the same for every row
def _beginning(tokenizer: Any) -> list[int]:
    """The ids that the tokenizer puts before every text by itself, such as a begin token."""
    bare, whole = tokenizer.encode("a", add_special_tokens=False), tokenizer.encode("a")
    start = next((i for i in range(len(whole)) if list(whole[i : i + len(bare)]) == list(bare)), 0)
    return list(whole[:start])


def _pieces(example: Example, size: int) -> list[Example]:
    ids, labels = example.input_ids, example.labels
    # The first token of a piece has nothing before it to be predicted from.
    return [
        Example(ids[start : start + size], [IGNORE, *labels[start + 1 : start + size]], [])
        for start in range(0, len(ids), size)
    ]
