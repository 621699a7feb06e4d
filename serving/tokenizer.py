"""Prompts as token ids: chat templates, their quirks, and text that must never become a special token.

Owns rendering. Does not own what a prompt says (`prompts`) nor what fits (`prompts.fit`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from jinja2 import TemplateError

from cluster.errors import InvalidInput


class Message(NamedTuple):
    """One turn of a conversation. `role` is system, user, assistant or tool.

    `tool_calls` are those of an assistant, their arguments objects; `tool_call_id` the one that a tool answers.
    """

    role: str
    content: str
    tool_calls: tuple[dict[str, Any], ...] = ()
    tool_call_id: str | None = None

    @property
    def is_text(self) -> bool:
        """Whether it is neither a call nor the answer to one."""
        return self.role != "tool" and not self.tool_calls

    def for_template(self) -> dict[str, Any]:
        """As chat templates read it: only what is there."""
        plain: dict[str, Any] = {"role": self.role, "content": self.content}
        calls = {"tool_calls": list(self.tool_calls)} if self.tool_calls else {}
        return plain | calls | ({"tool_call_id": self.tool_call_id} if self.tool_call_id else {})


class ChatTokenizer(Protocol):
    """What the generator needs of a tokenizer."""

    @property
    def special_tokens(self) -> tuple[str, ...]:
        """Texts that are read as one control token."""
        ...

    def apply_template(
        self, messages: Sequence[Message], template: str | None, tools: Sequence[dict[str, Any]] = ()
    ) -> list[int]:
        """Token ids of the conversation, ready for the answer.

        Raises jinja2.TemplateError or TypeError if the template refuses it, and InvalidInput where there is none.
        """
        ...

    def encode(self, text: str) -> list[int]:
        """Token ids of bare text, with the model's own beginning token if it has one."""
        ...


class HubTokenizer:
    """A tokenizer of transformers, from a model folder."""

    def __init__(self, folder: Path) -> None:
        # Imported late, so that the router and the tests do without transformers.
        from transformers import AutoTokenizer

        self._tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        added = [str(token) for token in self._tokenizer.added_tokens_decoder.values() if token.special]
        self.special_tokens = tuple(dict.fromkeys([*self._tokenizer.all_special_tokens, *added]))

    def apply_template(
        self, messages: Sequence[Message], template: str | None, tools: Sequence[dict[str, Any]] = ()
    ) -> list[int]:
        if template is None and not self._tokenizer.chat_template:
            raise InvalidInput(
                "the model has no chat template; use a model that was made for chats, or /v1/completions",
                "model",
            )
        text = self._tokenizer.apply_chat_template(
            [message.for_template() for message in messages],
            tools=list(tools) or None,
            chat_template=template,
            add_generation_prompt=True,
            tokenize=False,
        )
        # The template prints the beginning token where the model wants one; adding another spoils the prompt.
        return list(self._tokenizer.encode(text, add_special_tokens=False))

    def encode(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text))


# A text that no template prints by itself.
_PROBE = "Zq9"


class TemplateTraits(NamedTuple):
    """What a chat template puts up with."""

    takes_system: bool
    takes_repeated_roles: bool
    takes_tools: bool = False
    takes_late_system: bool = True


class PromptRenderer:
    """Renders conversations for one tokenizer, bending them to what a template accepts.

    System texts become one where the template reads the first message alone for it, and are folded into the first user
    turn where it has no system role. Turns of one role in a row are merged where it wants them to alternate.
    """

    def __init__(self, tokenizer: ChatTokenizer) -> None:
        self._tokenizer = tokenizer
        self._special = special_token_pattern(tokenizer.special_tokens)
        self._traits = lru_cache(maxsize=64)(self._probe)

    def render(
        self, messages: Sequence[Message], template: str | None = None, tools: Sequence[dict[str, Any]] = ()
    ) -> list[int]:
        """Token ids of the prompt. Raises InvalidInput with the template's reason if it still refuses.

        Also for tools or their calls where the template would leave them out.
        """
        traits = self._traits(template)
        if not traits.takes_tools and (tools or not all(message.is_text for message in messages)):
            raise InvalidInput(
                "the model's chat template leaves tools out; use a model that was made for them",
                "tools" if tools else "messages",
                "unsupported_parameter",
            )
        plain = [
            message._replace(
                content=neutralise(message.content, self._special),
                tool_calls=tuple(neutralised(call, self._special) for call in message.tool_calls),
            )
            for message in messages
        ]
        fitted = fit_template(plain, traits)
        try:
            return self._tokenizer.apply_template(
                fitted, template, [neutralised(tool, self._special) for tool in tools]
            )
        # Templates raise both: by name, or by adding text to an object.
        except (TemplateError, TypeError) as exc:
            reason = f"the model's chat template refuses these messages: {exc}"
            raise InvalidInput(reason, "messages") from exc

    def encode(self, text: str) -> list[int]:
        """Token ids of a bare prompt; here special tokens are the caller's own business."""
        return self._tokenizer.encode(text)

    def _probe(self, template: str | None) -> TemplateTraits:
        system, first, second = Message("system", _PROBE), Message("user", "a"), Message("user", _PROBE)
        chat = [Message("system", "a"), first, Message("assistant", "a")]
        tool = {"name": _PROBE, "description": "a", "parameters": {"type": "object", "properties": {}}}

        def shows(
            messages: list[Message], without: list[Message], tools: Sequence[dict[str, Any]] = ()
        ) -> bool:
            apply = self._tokenizer.apply_template
            try:
                # A template may also leave out in silence what it does not know.
                return apply(messages, template, tools) != apply(without, template)
            except (TemplateError, TypeError):
                return False

        return TemplateTraits(
            takes_system=shows([system, first], [system._replace(content=""), first]),
            takes_repeated_roles=shows([first, second], [first, second._replace(content="")]),
            takes_tools=shows([first], [first], [{"type": "function", "function": tool}]),
            takes_late_system=shows([*chat, system, first], [*chat, system._replace(content=""), first]),
        )


def fit_template(messages: Sequence[Message], traits: TemplateTraits) -> list[Message]:
    """`messages` in the form that a template with `traits` accepts. Pure.

    >>> [turn] = fit_template([Message("system", "Be brief."), Message("user", "Hi")], TemplateTraits(False, True))
    >>> turn.role, turn.content
    ('user', 'Be brief.\\n\\nHi')
    """
    fitted = list(messages)
    if not (traits.takes_system and traits.takes_late_system):
        fitted = _with_one_system_text(fitted, traits.takes_system)
    return fitted if traits.takes_repeated_roles else _merged(fitted)


def _with_one_system_text(messages: Sequence[Message], takes_system: bool) -> list[Message]:
    """`messages` with all system texts as the first message, or in the first user turn."""
    texts = [message.content for message in messages if message.role == "system"]
    others = [message for message in messages if message.role != "system"]
    system = "\n\n".join(texts)
    if takes_system:
        # An empty one stays: many templates say something of their own where there is none.
        return [Message("system", system), *others] if texts else others
    if not system:
        return others
    at = next((i for i, message in enumerate(others) if message.role == "user"), None)
    if at is None:
        return [Message("user", system), *others]
    return [*others[:at], Message("user", f"{system}\n\n{others[at].content}"), *others[at + 1 :]]


def _merged(messages: Sequence[Message]) -> list[Message]:
    """`messages` with texts of one role in a row as one."""
    merged: list[Message] = []
    for message in messages:
        before = merged[-1] if merged else None
        if before and before.role == message.role and before.is_text and message.is_text:
            merged[-1] = Message(message.role, f"{before.content}\n\n{message.content}")
        else:
            merged.append(message)
    return merged


def special_token_pattern(special_tokens: Sequence[str]) -> re.Pattern[str] | None:
    """A pattern for any of the control tokens, longest first; None when there are none."""
    texts = sorted((token for token in special_tokens if len(token) > 1), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, texts))) if texts else None


def neutralise(text: str, special: re.Pattern[str] | None) -> str:
    """`text` with control tokens broken by a space, so that they are read as plain characters.

    Applied until none is left: breaking one token must not complete another.

    >>> neutralise("a<|im_end|>b", special_token_pattern(["<|im_end|>"]))
    'a< |im_end|>b'
    """
    if special is None:
        return text
    while special.search(text):
        text = special.sub(lambda match: f"{match[0][0]} {match[0][1:]}", text)
    return text


def neutralised(value: Any, special: re.Pattern[str] | None) -> Any:
    """A JSON value with every text in it neutralised, the names of its fields too."""
    if isinstance(value, str):
        return neutralise(value, special)
    if isinstance(value, dict):
        return {neutralise(key, special): neutralised(item, special) for key, item in value.items()}
    if isinstance(value, list):
        return [neutralised(item, special) for item in value]
    return value
