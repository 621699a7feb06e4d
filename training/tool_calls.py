"""Tool calls of chat rows: their form, the tools they name, and that each is answered once."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from typing import Any

import orjson

from training.faults import At, Fault, show, unknown_keys

CALL_KEYS = ("id", "type", "function")
TOOL_KEYS = ("type", "function")
FUNCTION_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")


def tool_call_faults(calls: Any, at: At) -> Iterator[Fault]:
    if not isinstance(calls, list):
        yield Fault(f"tool_calls must be a list, found {show(calls)}", "write a list of calls", at)
        return
    for index, call in enumerate(calls):
        place = (*at, index)
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict):
            yield Fault(
                "expected a call",
                'write {"id": …, "type": "function", "function": {"name": …, "arguments": …}}',
                place,
            )
            continue
        yield from unknown_keys(call, CALL_KEYS, place, "a tool call")
        if not isinstance(call.get("id"), str) or not call["id"]:
            yield Fault(f"id must be text, found {show(call.get('id'))}", "name the call", (*place, "id"))
        if call.get("type", "function") != "function":
            yield Fault(f"type is {call['type']!r}", "write function", (*place, "type"))
        yield from _function_faults(function, (*place, "function"))


def _function_faults(function: dict[str, Any], at: At) -> Iterator[Fault]:
    yield from unknown_keys(function, ("name", "arguments"), at, "the function of a call")
    yield from _name_faults(function.get("name"), (*at, "name"))
    arguments, place = function.get("arguments"), (*at, "arguments")
    if isinstance(arguments, str):
        try:
            arguments = orjson.loads(arguments)
        except orjson.JSONDecodeError as exc:
            reason = str(exc).split(":")[0]
            yield Fault(
                f"the arguments are not JSON ({reason})", "write an object, or its JSON as text", place
            )
            return
    if not isinstance(arguments, dict):
        yield Fault(f"the arguments are {show(arguments)}", "write an object, or its JSON as text", place)


def _name_faults(name: Any, at: At) -> Iterator[Fault]:
    if not isinstance(name, str) or not FUNCTION_NAME.fullmatch(name):
        yield Fault(
            f"a function's name is 1 to 64 letters, digits, _ or -, found {show(name)}",
            "correct the name",
            at,
        )


def tools_faults(tools: Any) -> Iterator[Fault]:
    if tools is None:
        return
    if not isinstance(tools, list):
        yield Fault(f"tools must be a list, found {show(tools)}", "write a list of tools", ("tools",))
        return
    for index, tool in enumerate(tools):
        at = ("tools", index)
        function = tool.get("function") if isinstance(tool, dict) else None
        if not isinstance(function, dict) or tool.get("type") != "function":
            yield Fault(
                "expected a tool",
                'write {"type": "function", "function": {"name": …, "parameters": {…}}}',
                at,
            )
            continue
        yield from unknown_keys(tool, TOOL_KEYS, at, "a tool")
        place = (*at, "function")
        yield from unknown_keys(
            function, ("name", "description", "parameters", "strict"), place, "a tool's function"
        )
        yield from _name_faults(function.get("name"), (*place, "name"))
        if not isinstance(function.get("parameters"), dict | None):
            yield Fault("parameters must be a JSON Schema object", "correct it", (*place, "parameters"))


def call_order_faults(messages: list[Any], tools: Any) -> Iterator[Fault]:
    """Calls and their answers: each is answered once, before anybody else speaks; the last may stay open."""
    tool_names = _tool_names(tools)
    open_calls: dict[str, At] = {}
    called: set[str] = set()
    for index, message in enumerate(messages):
        if not isinstance(message, dict) or "role" not in message:
            continue
        if message["role"] == "tool":
            yield from _answer_faults(message.get("tool_call_id"), open_calls, called, ("messages", index))
            continue
        for call_id, at in open_calls.items():
            yield Fault(f"the call {call_id!r} is never answered", "add the tool message that answers it", at)
        open_calls = {}
        for at, call in _calls_of(message, index):
            call_id = call["id"]
            if call_id in called:
                yield Fault(f"a second call has the id {call_id!r}", "give each call its own id", (*at, "id"))
            called.add(call_id)
            open_calls[call_id] = at
            name = call["function"].get("name")
            if tool_names is not None and name not in tool_names:
                near = difflib.get_close_matches(str(name), tool_names, n=1)
                remedy = f"did you mean {near[0]}?" if near else "add it to tools"
                yield Fault(
                    f"calls {name!r}, which is not among the row's tools", remedy, (*at, "function", "name")
                )


def _answer_faults(call_id: Any, open_calls: dict[str, At], called: set[str], at: At) -> Iterator[Fault]:
    place = (*at, "tool_call_id")
    if not isinstance(call_id, str) or not call_id:
        yield Fault("a tool message must name the call it answers", "add its tool_call_id", place)
    elif open_calls.pop(call_id, None) is None:
        if call_id in called:
            reason, remedy = f"the call {call_id!r} is answered already", "put one answer after each call"
        else:
            reason = f"tool_call_id {call_id!r} was never called by an assistant message before it"
            remedy = "correct the id or add the call"
        yield Fault(reason, remedy, place)


def _calls_of(message: dict[str, Any], index: int) -> Iterator[tuple[At, dict[str, Any]]]:
    """The well-formed calls of a message; the others are reported as such."""
    calls = message.get("tool_calls")
    for number, call in enumerate(calls if isinstance(calls, list) else ()):
        well_formed = isinstance(call, dict) and isinstance(call.get("id"), str)
        if well_formed and isinstance(call.get("function"), dict):
            yield ("messages", index, "tool_calls", number), call


def _tool_names(tools: Any) -> tuple[str, ...] | None:
    if not isinstance(tools, list):
        return None
    functions = (tool.get("function") for tool in tools if isinstance(tool, dict))
    return tuple(str(function.get("name")) for function in functions if isinstance(function, dict))
