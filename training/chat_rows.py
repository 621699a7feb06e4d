"""The form of a chat row, which is OpenAI's: what is refused, and what a chat template is given.

No text is rendered here; see `training/chat.py`.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from training.faults import At, Fault, show, unknown_keys
from training.tool_calls import call_order_faults, tool_call_faults, tools_faults

ROLES = ("system", "developer", "user", "assistant", "tool")
PLAIN_ROLES = ("system", "user", "assistant")
ROW_KEYS = ("messages", "tools", "parallel_tool_calls")
# Columns that public data sets carry beside a row and that say nothing about its text.
UNREAD_KEYS = ("id", "source", "metadata")
MESSAGE_KEYS = ("role", "content", "name")
KEYS_OF_ROLE = {
    "assistant": (*MESSAGE_KEYS, "tool_calls", "weight"),
    "tool": (*MESSAGE_KEYS, "tool_call_id"),
}


def chat_faults(columns: Mapping[str, Any]) -> Iterator[Fault]:
    """Everything wrong with one row. A null stands for an absent key."""
    if _is_plain_row(columns):
        return
    yield from unknown_keys(columns, (*ROW_KEYS, *UNREAD_KEYS), (), "a chat row")
    messages = columns.get("messages")
    if not isinstance(messages, list) or not messages:
        yield Fault(
            "`messages` must be a list with at least one message", "write the conversation", ("messages",)
        )
        return
    yield from tools_faults(columns.get("tools"))
    if not isinstance(columns.get("parallel_tool_calls"), bool | None):
        yield Fault("must be true or false", "correct or remove it", ("parallel_tool_calls",))
    for index, message in enumerate(messages):
        if not _is_plain(message):
            yield from _message_faults(message, ("messages", index))
    yield from call_order_faults(messages, columns.get("tools"))
    last = messages[-1]
    if isinstance(last, dict) and last.get("role") in ROLES and last["role"] != "assistant":
        yield Fault(
            f"the last message is by {last['role']}; it must be the assistant's answer, which is what is trained",
            "add the answer or remove what follows the last one",
            ("messages", len(messages) - 1),
        )


def template_messages(messages: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Checked messages as chat templates expect them, and as serving hands them over.

    Text parts are joined by line ends, `developer` speaks as `system`, and the arguments of a call are an
    object whichever way they were written, so that a template's own JSON filter writes them once.
    """
    return [_template_message(message) for message in messages]


def _template_message(message: Mapping[str, Any]) -> dict[str, Any]:
    content = message.get("content")
    if isinstance(content, list):
        content = "\n".join(part["text"] for part in content)
    role = "system" if message["role"] == "developer" else message["role"]
    turned: dict[str, Any] = {"role": role, "content": content or ""}
    turned |= {key: message[key] for key in ("name", "tool_call_id") if message.get(key)}
    if message.get("tool_calls"):
        turned["tool_calls"] = [_template_call(call) for call in message["tool_calls"]]
    return turned


def _template_call(call: Mapping[str, Any]) -> dict[str, Any]:
    arguments = call["function"].get("arguments") or {}
    if isinstance(arguments, str):
        arguments = json.loads(arguments)
    function = {"name": call["function"]["name"], "arguments": arguments}
    return {"id": call["id"], "type": "function", "function": function}


def _is_plain_row(columns: Mapping[str, Any]) -> bool:
    messages = columns.get("messages")
    if len(columns) != 1 or type(messages) is not list or not messages:
        return False
    return all(map(_is_plain, messages)) and messages[-1]["role"] == "assistant"


def _is_plain(message: Any) -> bool:
    """Whether a message is role and text alone: most are, and need no closer look."""
    if type(message) is not dict or len(message) != 2:
        return False
    content = message.get("content")
    return type(content) is str and content != "" and message.get("role") in PLAIN_ROLES


def _message_faults(message: Any, at: At) -> Iterator[Fault]:
    if not isinstance(message, dict):
        yield Fault("expected an object with role and content", 'write {"role": …, "content": …}', at)
        return
    role = message.get("role")
    if role not in ROLES:
        near = difflib.get_close_matches(str(role), ROLES, n=1)
        remedy = f"did you mean {near[0]}?" if near else "name who speaks"
        if role == "function":
            remedy = "write a function's answer as role tool, with its tool_call_id"
        yield Fault(f"role {role!r} is not one of {', '.join(ROLES)}", remedy, (*at, "role"))
        return
    yield from unknown_keys(message, KEYS_OF_ROLE.get(role, MESSAGE_KEYS), at, f"a message by {role}")
    yield from _content_faults(message, role, at)
    if not isinstance(message.get("name"), str | None):
        yield Fault(f"name must be text, found {message['name']!r}", "correct or remove it", (*at, "name"))
    weight = message.get("weight")
    if role == "assistant" and (isinstance(weight, bool) or weight not in (None, 0, 1)):
        yield Fault(f"weight must be 0 or 1, found {weight!r}", "write 0 or 1", (*at, "weight"))
    if role == "assistant" and message.get("tool_calls") is not None:
        yield from tool_call_faults(message["tool_calls"], (*at, "tool_calls"))


def _content_faults(message: dict[str, Any], role: str, at: At) -> Iterator[Fault]:
    content, place = message.get("content"), (*at, "content")
    may_be_empty = role == "tool" or (role == "assistant" and message.get("tool_calls"))
    if isinstance(content, list) and content:
        for index, part in enumerate(content):
            yield from _part_faults(part, (*place, index))
    elif isinstance(content, str):
        if not content and not may_be_empty:
            yield Fault("content must be text, found ''", "write the text or remove the message", place)
    elif content is not None or not may_be_empty or role == "tool":
        only = "; only an assistant message with tool_calls may have none" if content is None else ""
        yield Fault(
            f"content must be text, found {show(content)}{only}",
            "write the text or remove the message",
            place,
        )


def _part_faults(part: Any, at: At) -> Iterator[Fault]:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind != "text":
        yield Fault(
            f"content part of type {kind!r}", 'only text is trained; write {"type": "text", "text": …}', at
        )
    elif not isinstance(part.get("text"), str):
        yield Fault(f"text must be text, found {show(part.get('text'))}", "write the text", (*at, "text"))
    else:
        yield from unknown_keys(part, ("type", "text"), at, "a text part")
