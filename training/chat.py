"""Chat rows in OpenAI's form -> token ids and a loss mask, through the model's own chat template.

The mask is built by construction, never by searching for marker tokens. The template is rendered
piecewise: everything up to an assistant's turn exactly as serving would render that prompt, then the
turn itself with its end token. No token straddles the border between prompt and answer, as none can when
a model generates: the prompt's tokens are fixed before the first answer token is chosen. So training sees
the same ids as serving.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from jinja2 import TemplateError

from cluster.errors import DataError
from training.chat_rows import template_messages
from training.examples import IGNORE, Example

# What templates that write the day (Llama 3.2, Mistral Small, gpt-oss) take for today. With the clock's day a row would
# have other ids tomorrow: in the cache of tokens, in a run that is resumed, and in the check before registration.
RENDERED_ON = datetime(2026, 1, 1)


@dataclass(frozen=True, slots=True)
class Segment:
    """A piece of a rendered conversation; `is_trained` pieces carry loss."""

    text: str
    is_trained: bool


@dataclass(frozen=True, slots=True)
class Rendered:
    """A row as text. `beginning` are untrained ids that stand before it all, where no template writes them."""

    segments: Sequence[Segment]
    beginning: Sequence[int] = ()


def render(
    messages: Sequence[dict[str, Any]], tokenizer: Any, tools: list[dict[str, Any]] | None = None
) -> list[Segment]:
    """Cut a checked conversation into prompt pieces and answer pieces.

    `weight` 0 keeps an answer out of the loss; so does standing first, where nothing is answered. Raises
    DataError when the template does not render a turn as a prefix of the next one, since then no mask could
    be right, and when it leaves calls or tools out.
    """
    plain = template_messages(messages)
    segments: list[Segment] = []
    done = ""
    for index, message in enumerate(messages):
        if message["role"] != "assistant" or index == 0:
            continue
        prompt = apply_template(tokenizer, plain[:index], tools, add_generation_prompt=True)
        turn = apply_template(tokenizer, plain[: index + 1], tools, add_generation_prompt=False)
        if not prompt.startswith(done) or not turn.startswith(prompt):
            raise DataError(
                "the chat template changes earlier turns when later ones are added, so answers cannot be told "
                "from prompts; split the conversation into rows of one answer each",
                "messages",
            )
        answer_end = _answer_end(turn, len(prompt), tokenizer.eos_token)
        answer = turn[len(prompt) : answer_end]
        _require_calls(answer, plain[index])
        segments.append(Segment(prompt[len(done) :], is_trained=False))
        segments.append(Segment(answer, is_trained=message.get("weight") != 0))
        done = turn[:answer_end]
    if tools and not all(tool["function"]["name"] in done for tool in tools):
        raise DataError(
            "the model's chat template leaves tools out; use a model that was made for tools", "tools"
        )
    return segments


def encode(rows: Sequence[Rendered], tokenizer: Any) -> list[Example]:
    """Token ids and labels of rendered rows; loss falls on trained pieces only.

    Give many rows at once: their texts are work for all threads of the tokenizer.
    """
    texts = list(dict.fromkeys(text for row in rows for text in _texts(row)))
    known = dict(zip(texts, _tokenize(texts, tokenizer), strict=True))

    def ids_of(text: str) -> list[int]:
        return known[text] if text in known else _tokenize([text], tokenizer)[0]

    return [_example(row, ids_of) for row in rows]


def _texts(row: Rendered) -> Iterator[str]:
    """What is tokenised of a row: nearly always all that `_continuation` asks for."""
    before = ""
    for segment in row.segments:
        if before:
            yield before
        yield before + segment.text
        before = segment.text


def _tokenize(texts: list[str], tokenizer: Any) -> list[list[int]]:
    if not texts:  # which transformers' tokenizers do not take
        return []
    # The template writes every special token itself; adding them again would double the begin token.
    ids: list[list[int]] = tokenizer(texts, add_special_tokens=False)["input_ids"]
    return ids


def _example(row: Rendered, ids_of: Callable[[str], list[int]]) -> Example:
    input_ids = list(row.beginning)
    labels = [IGNORE] * len(row.beginning)
    before = ""
    for segment in row.segments:
        ids = _continuation(before, segment.text, ids_of)
        input_ids += ids
        labels += ids if segment.is_trained else [IGNORE] * len(ids)
        before = segment.text
    labels[:1] = [IGNORE] * len(labels[:1])  # nothing comes before the first token that could predict it
    return Example(input_ids, labels, [])


def _continuation(before: str, text: str, ids_of: Callable[[str], list[int]]) -> list[int]:
    """Token ids of `text` as it stands after `before`.

    SentencePiece models put a space before whatever they are given, so that `text` alone would begin with
    a space that the model never has to write. It is tokenised together with `before` and cut off at the
    border, and alone only where a token would straddle that.
    """
    if not before:
        return ids_of(text)
    head, both = ids_of(before), ids_of(before + text)
    return both[len(head) :] if both[: len(head)] == head else ids_of(text)


def _answer_end(turn: str, start: int, end_token: str | None) -> int:
    """Where an answer ends: after its end token, before what the template writes between turns."""
    # The last one: an answer that quotes the end token does not end there.
    position = turn.rfind(end_token, start) if end_token else -1
    if end_token is None or position < 0:
        raise DataError(
            f"the chat template does not write the end token {end_token!r} after an answer, so the model "
            "could never learn to stop; use a template that does",
            "model",
        )
    return position + len(end_token)


def _require_calls(answer: str, message: dict[str, Any]) -> None:
    """A template that does not know tool calls renders an empty answer, which must not be trained."""
    for call in message.get("tool_calls", ()):
        if call["function"]["name"] not in answer:
            raise DataError(
                "the model's chat template leaves tool calls out; use a model that was made for tools",
                "messages",
            )


def apply_template(
    tokenizer: Any,
    messages: list[dict[str, Any]],
    tools: list[dict[str, Any]] | None,
    *,
    add_generation_prompt: bool,
) -> str:
    """The text of messages as a chat template is given them. Raises DataError where it refuses them."""
    try:
        text: str = tokenizer.apply_chat_template(
            messages,
            tools=tools or None,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            strftime_now=RENDERED_ON.strftime,
        )
    except (TemplateError, TypeError) as exc:  # templates raise both: by name, or by adding text to an object
        raise DataError(f"the model's chat template refuses the messages: {exc}", "messages") from exc
    return text
