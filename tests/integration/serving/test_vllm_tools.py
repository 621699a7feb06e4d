"""What a model writes, read as text and calls by vLLM's parser; an engine writes it in `test_application`."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("vllm", reason="vLLM is not installed")

from transformers import AutoTokenizer

from cluster.errors import ConfigError, InvalidInput
from cluster.references import resolve_model
from serving.engine import ToolUse
from serving.vllm_tools import ToolParsers

MODEL = resolve_model("builtin:smollm2")
WEATHER = {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}
CLOCK = {"type": "function", "function": {"name": "get_time", "parameters": {"type": "object"}}}
TOOLS = (WEATHER, CLOCK)


@pytest.fixture(scope="module")
def parsers() -> ToolParsers:
    return ToolParsers("hermes", MODEL)


def read(parsers: ToolParsers, written: str, use: ToolUse | None = None) -> tuple[str, dict[int, list[Any]]]:
    """Text, and by number id, name and arguments of each call, of an answer that comes token by token."""
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    reader = parsers.reader(use or ToolUse(TOOLS), None)
    text, calls = "", {}
    ids = tokenizer.encode(written)
    for position, token_id in enumerate(ids):
        piece = tokenizer.decode([token_id])
        more, pieces = reader.read(piece, [token_id], [1, 2], position == len(ids) - 1)
        text += more
        for call in pieces:
            whole = calls.setdefault(call.number, [call.id, call.name, ""])
            whole[2] += call.arguments
    assert reader.has_calls == bool(calls)
    return text, calls


def test_text_and_calls_are_told_apart(parsers: ToolParsers) -> None:
    written = (
        'Let me see. <tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>'
        '<tool_call>\n{"name": "get_time", "arguments": {}}\n</tool_call>'
    )
    text, calls = read(parsers, written)
    assert text.strip() == "Let me see."
    assert [call[1:] for call in calls.values()] == [["get_weather", '{"city": "Paris"}'], ["get_time", "{}"]]
    ids = {call[0] for call in calls.values()}
    assert len(ids) == 2
    assert all(call_id.startswith("call_") for call_id in ids)


@pytest.mark.parametrize(
    "written", ["18 degrees.", "a <b> c", "It is <tool", "{'name': 'x'}", "So <tool_call> it is"]
)
def test_an_answer_without_a_call_is_text_to_the_last_character(parsers: ToolParsers, written: str) -> None:
    assert read(parsers, written) == (written, {})


@pytest.mark.parametrize(
    "use", [ToolUse(TOOLS), ToolUse(TOOLS, must_call=True), ToolUse(TOOLS, function="get_time")]
)
def test_a_call_names_one_of_the_functions(parsers: ToolParsers, use: ToolUse) -> None:
    constraint = parsers.reader(use, None).sampling["structured_outputs"].structural_tag
    assert "get_time" in constraint
    assert ("get_weather" in constraint) == (use.function is None)


def test_an_unknown_parser_is_named() -> None:
    with pytest.raises(ConfigError, match="'telepathy'"):
        ToolParsers("telepathy", MODEL)


def test_tools_that_are_none_are_refused(parsers: ToolParsers) -> None:
    with pytest.raises(InvalidInput):
        parsers.reader(ToolUse(({"type": "function", "function": {}},)), None)


def test_a_call_of_one_function_and_an_answer_of_one_schema_at_once_are_refused(parsers: ToolParsers) -> None:
    with pytest.raises(InvalidInput, match="not both") as refused:
        parsers.reader(ToolUse(TOOLS, function="get_time"), '{"type": "object"}')
    assert refused.value.param == "tools"
