"""Chat rows in OpenAI's form -> token ids and a loss mask, through the model's own chat template.

The mask is built by construction, never by searching for marker tokens. The template is rendered
piecewise: everything up to an assistant's turn exactly as serving would render that prompt, then the
turn itself with its end token. No token straddles the border between prompt and answer, as none can when
a model generates: the prompt's tokens are fixed before the first answer token is chosen. So training sees
the same ids as serving.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import TemplateError

from cluster.errors import DataError
from training.examples import IGNORE, Example

ROLES = ("system", "user", "assistant")


@dataclass(frozen=True, slots=True)
class Segment:
    """A piece of a rendered conversation; `is_trained` pieces carry loss."""

    text: str
    is_trained: bool


def check_messages(messages: Any, where: str) -> list[dict[str, Any]]:
    """The messages of one row, or a DataError naming the row, the message and the remedy.

    `weight` 0 on an assistant message keeps it out of the loss, as in OpenAI's format; 1 is the default.
    """
    if not isinstance(messages, list) or not messages:
        raise DataError(f"{where}: `messages` must be a list with at least one message", "messages")
    for index, message in enumerate(messages):
        place = f"{where}, messages[{index}]"
        if not isinstance(message, dict):
            raise DataError(f"{place}: expected an object with role and content", "messages")
        role, content = message.get("role"), message.get("content")
        if role not in ROLES:
            raise DataError(
                f"{place}: role {role!r} is not one of {', '.join(ROLES)}", f"messages[{index}].role"
            )
        if not isinstance(content, str) or not content:
            raise DataError(f"{place}: content must be text, found {content!r}", f"messages[{index}].content")
        if message.get("weight", 1) not in (0, 1) or isinstance(message.get("weight"), str | bool):
            raise DataError(
                f"{place}: weight must be 0 or 1, found {message['weight']!r}", f"messages[{index}].weight"
            )
    if messages[-1]["role"] != "assistant":
        raise DataError(
            f"{where}: the last message is by {messages[-1]['role']}; it must be the assistant's answer, "
            "which is what is trained",
            "messages",
        )
    return messages


def render(messages: Sequence[dict[str, Any]], tokenizer: Any) -> list[Segment]:
    """Cut a conversation into prompt pieces and answer pieces.

    Raises DataError when the template does not render a turn as a prefix of the next one, since then no
    mask could be right.
    """
    plain = [{"role": m["role"], "content": m["content"]} for m in messages]
    segments: list[Segment] = []
    done = ""
    for index, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        prompt = _apply(tokenizer, plain[:index], add_generation_prompt=True)
        turn = _apply(tokenizer, plain[: index + 1], add_generation_prompt=False)
        if not prompt.startswith(done) or not turn.startswith(prompt):
            raise DataError(
                "the chat template changes earlier turns when later ones are added, so answers cannot be told "
                "from prompts; split the conversation into rows of one answer each",
                "messages",
            )
        answer_end = _answer_end(turn, len(prompt), tokenizer.eos_token)
        segments.append(Segment(prompt[len(done) :], is_trained=False))
        segments.append(Segment(turn[len(prompt) : answer_end], is_trained=message.get("weight", 1) == 1))
        done = turn[:answer_end]
    return segments


def encode(segments: Sequence[Segment], tokenizer: Any) -> Example:
    """Token ids and labels of a rendered conversation; loss falls on trained pieces only."""
    input_ids: list[int] = []
    labels: list[int] = []
    before = ""
    for segment in segments:
        ids = _continuation(before, segment.text, tokenizer)
        input_ids += ids
        labels += ids if segment.is_trained else [IGNORE] * len(ids)
        before = segment.text
    return Example(input_ids, labels, [])


def _continuation(before: str, text: str, tokenizer: Any) -> list[int]:
    """Token ids of `text` as it stands after `before`.

    SentencePiece models put a space before whatever they are given, so that `text` alone would begin with
    a space that the model never has to write. It is tokenised together with `before` and cut off at the
    border, and alone only where a token would straddle that.
    """

    def ids_of(piece: str) -> list[int]:
        # The template writes every special token itself; adding them again would double the begin token.
        return list(tokenizer.encode(piece, add_special_tokens=False))

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


def _apply(tokenizer: Any, messages: Sequence[dict[str, str]], *, add_generation_prompt: bool) -> str:
    try:
        text: str = tokenizer.apply_chat_template(
            list(messages), tokenize=False, add_generation_prompt=add_generation_prompt
        )
    except TemplateError as exc:
        raise DataError(f"the model's chat template refuses the messages: {exc}", "messages") from exc
    return text
