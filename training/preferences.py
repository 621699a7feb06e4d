"""The preference task: a prompt, the answer that is preferred and another -> a model that leans to the first.

Rows are in OpenAI's form for `dpo`. No torch here: the loss lives in `training/language_modules.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, TypeGuard

from training.chat import Rendered, encode, render
from training.chat_rows import UNREAD_KEYS, chat_faults
from training.examples import MILLIONTHS, Dataset, Example, Preference
from training.faults import At, Fault, show, unknown_keys
from training.packing import join
from training.sft import Columns, RowCoding, encode_rows, fits, require_template
from training.sources import Rows

OUTPUTS = ("preferred_output", "non_preferred_output")
ROW_KEYS = ("input", *OUTPUTS)
# Stands for an output that is out of form, so that the input is checked all the same.
ANSWER = {"role": "assistant", "content": "…"}


def preference_faults(columns: Columns) -> Iterator[Fault]:
    """Everything wrong with one row: each output must go on with the input as an answer in a chat row does."""
    yield from unknown_keys(columns, (*ROW_KEYS, *UNREAD_KEYS), (), "a preference row")
    given = columns.get("input")
    messages = given.get("messages") if isinstance(given, dict) else None
    if not isinstance(given, dict) or not isinstance(messages, list) or not messages:
        yield Fault(
            "`input` must be an object whose messages are a list with at least one",
            'write {"messages": [{"role": "user", "content": …}]}',
            ("input",),
        )
        return
    if isinstance(messages[-1], dict) and messages[-1].get("role") == "assistant":
        yield Fault(
            "the input ends with a message by assistant, which is what the outputs are to be",
            "end it with the message that they answer",
            ("input", "messages", len(messages) - 1),
        )
    told: set[Fault] = set()
    for name in OUTPUTS:
        output = columns.get(name)
        yield from _output_faults(output, name)
        answer = output[0] if _is_one(output) else ANSWER
        for fault in chat_faults({**given, "messages": [*messages, answer]}):
            moved = replace(fault, at=_moved(fault.at, name, len(messages)))
            if moved not in told:  # what is wrong with the input is wrong for both outputs
                told.add(moved)
                yield moved
    preferred, other = (columns.get(name) for name in OUTPUTS)
    if preferred is not None and preferred == other:
        yield Fault(
            "both outputs are the same, so that neither is preferred",
            "correct one of them or remove the row",
            ("non_preferred_output",),
        )


def preference_examples(
    columns: Columns, sides: Sequence[Example], max_length_tokens: int
) -> list[Preference]:
    """The example that an encoded row becomes; none when prompt and answer do not fit, for either answer."""
    if not all(fits(side, max_length_tokens) for side in sides):
        return []
    pair = join(sides)
    return [Preference(pair.input_ids, pair.labels, pair.segment_ids)]


def encode_sides(columns: Columns, tokenizer: Any) -> list[Example]:
    """The prompt with the preferred answer and with the other one, of any length."""
    return encode(render_sides(columns, tokenizer), tokenizer)


def render_sides(columns: Columns, tokenizer: Any) -> list[Rendered]:
    """Both sides of a checked row as text; only their last answers are trained."""
    require_template(tokenizer)
    given = columns["input"]
    sides = []
    for name in OUTPUTS:
        *context, answer = render([*given["messages"], columns[name][0]], tokenizer, given.get("tools"))
        context = [replace(segment, is_trained=False) for segment in context]
        sides.append(Rendered([*context, answer]))
    return sides


DPO = RowCoding(preference_faults, render_sides, preference_examples)


def prepare_preferences(rows: Rows, tokenizer: Any, max_length_tokens: int) -> Dataset:
    """Render and tokenise rows; those of which an answer does not fit whole are left out, and told."""
    return encode_rows(rows, DPO, tokenizer, max_length_tokens)


def preference_metrics(margins: Sequence[int]) -> dict[str, float]:
    """How well the implicit rewards order the answers; `margins` in millionths, one for each row.

    The reward of an answer is beta x (its log-probability under the model - under the reference); the
    margin is that of the preferred answer less that of the other. Accuracy is the share of margins above 0.

    >>> preference_metrics([1_500_000, -500_000])
    {'reward_accuracy': 0.5, 'reward_margin': 0.5}
    """
    return {
        "reward_accuracy": sum(margin > 0 for margin in margins) / len(margins),
        "reward_margin": sum(margins) / len(margins) / MILLIONTHS,
    }


def _output_faults(output: Any, name: str) -> Iterator[Fault]:
    if not _is_one(output):
        yield Fault(
            f"{name} must be a list with one message, found {show(output)}",
            'write [{"role": "assistant", "content": …}]',
            (name,),
        )
    elif isinstance(output[0], dict) and output[0].get("weight") is not None:
        yield Fault("an output has no weight: both are compared", "remove it", (name, 0, "weight"))


def _is_one(output: Any) -> TypeGuard[list[Any]]:
    return isinstance(output, list) and len(output) == 1


def _moved(at: At, name: str, num_messages: int) -> At:
    """A place in the conversation as a place in the row."""
    if at[:2] == ("messages", num_messages):
        return (name, 0, *at[2:])
    return ("input", *at)
