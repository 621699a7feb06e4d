"""The supervised fine-tuning task: chat rows, prompts with completions, or plain text -> a model that writes so.

No torch here: the loss lives in `training/language_modules.py`.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from cluster.errors import DataError
from training.chat import Segment, encode, render
from training.chat_rows import chat_faults
from training.examples import IGNORE, Dataset, Example, Examples
from training.faults import Fault, raise_first, text_fault
from training.row_files import Row
from training.sources import Rows

# What is wrong with the columns of a row, and the examples that they become.
FaultsOf = Callable[[Mapping[str, Any]], Iterator[Fault]]
ExamplesOf = Callable[[Mapping[str, Any]], Sequence[Example]]

FORM_KEYS = ("messages", "prompt", "completion", "text")


def sft_faults(columns: Mapping[str, Any]) -> Iterator[Fault]:
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


def row_form(columns: Mapping[str, Any]) -> str | None:
    """`messages`, `prompt` or `text`: the form of a row; None for none of them."""
    if columns.get("messages") is not None:
        return "messages"
    if "prompt" in columns or "completion" in columns:
        return "prompt"
    return next((form for form in ("text", "messages") if form in columns), None)


def encode_row(columns: Mapping[str, Any], tokenizer: Any) -> Example:
    """Token ids and labels of a checked row, of any length.

    Chat rows go through the model's template. Prompts, completions and text are written as they stand, as
    `/v1/completions` reads them: behind the tokenizer's own beginning, closed by the end token. Of a prompt
    with its completion the completion is trained, of a text all.
    """
    if row_form(columns) == "messages":
        require_template(tokenizer)
        return encode(render(columns["messages"], tokenizer, columns.get("tools")), tokenizer)
    if row_form(columns) == "prompt":
        prompt, text = columns["prompt"], columns["completion"]
    else:
        prompt, text = "", columns["text"]
    segments = [
        Segment(prompt, is_trained=False),
        Segment(text + (tokenizer.eos_token or ""), is_trained=True),
    ]
    return encode(segments, tokenizer, _beginning(tokenizer))


def encode_pieces(columns: Mapping[str, Any], tokenizer: Any, max_length_tokens: int) -> list[Example]:
    """The examples that a checked row becomes: none, one, or the pieces of a long text.

    A chat or completion that does not fit is left out: cut in its answer it would teach the model never to
    stop, and cut before that it teaches nothing. A plain text is cut into pieces instead.
    """
    example = encode_row(columns, tokenizer)
    if row_form(columns) == "text":
        return [piece for piece in _pieces(example, max_length_tokens) if piece.num_targets]
    return [example] if fits(example, max_length_tokens) else []


def prepare_sft(rows: Rows, tokenizer: Any, max_length_tokens: int) -> Dataset:
    """Render and tokenise rows; rows that do not fit whole are left out, and told."""
    examples_of = partial(encode_pieces, tokenizer=tokenizer, max_length_tokens=max_length_tokens)
    return encode_rows(rows, sft_faults, examples_of, max_length_tokens)


def encode_rows(rows: Rows, faults_of: FaultsOf, examples_of: ExamplesOf, max_length_tokens: int) -> Dataset:
    """The examples of all rows, by a task's check of a row and what it makes of one.

    Raises DataError naming file and line at the first fault, and where no row gives an example.
    """
    train, told = _encode_all(rows.train, "training", faults_of, examples_of, max_length_tokens)
    validation, told_too = _encode_all(
        rows.validation, "validation", faults_of, examples_of, max_length_tokens
    )
    return Dataset(train, validation, (), (*told, *told_too))


def fits(example: Example, max_length_tokens: int) -> bool:
    """Whether a row is used: it fits whole, and some of it is trained."""
    return len(example.input_ids) <= max_length_tokens and example.num_targets > 0


def require_template(tokenizer: Any) -> None:
    if not tokenizer.chat_template:
        raise DataError("the base model has no chat template; use an instruct model for chat rows", "model")


def _encode_all(
    rows: Iterable[Row], what: str, faults_of: FaultsOf, examples_of: ExamplesOf, max_length_tokens: int
) -> tuple[Examples, list[str]]:
    """The examples of all rows, and what is to be told of those that gave none."""
    num_rows, left_out = 0, 0

    def encoded() -> Iterator[Example]:
        nonlocal num_rows, left_out
        for num_rows, row in enumerate(rows, 1):  # noqa: B007 - the last one counts
            where = f"{what} file, {row.where}"
            raise_first(faults_of(row.columns), where)
            try:
                found = examples_of(row.columns)
            except DataError as exc:
                raise DataError(f"{where}: {exc.message}", exc.param) from exc
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
