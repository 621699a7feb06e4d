from __future__ import annotations

from typing import Any

import pytest

from training.chat_rows import chat_faults, template_messages

USER = {"role": "user", "content": "a"}
ANSWER = {"role": "assistant", "content": "b"}
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]


def call(name: str = "weather", arguments: Any = '{"city": "Oslo"}', call_id: str = "c1") -> dict[str, Any]:
    function = {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}
    return {"role": "assistant", "content": None, "tool_calls": [function]}


def result(call_id: str = "c1", content: Any = "rain") -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": call_id, "content": content}


def faults_of(*messages: Any, **row: Any) -> list[tuple[str, str]]:
    return [(fault.param or "", fault.reason) for fault in chat_faults({"messages": list(messages), **row})]


@pytest.mark.parametrize(
    "messages",
    [
        [USER, ANSWER],
        [{"role": "system", "content": "s"}, {"role": "developer", "content": "d"}, USER, ANSWER],
        [USER, call(), result(), ANSWER],
        [USER, call(arguments={"city": "Oslo"}), result(content=""), ANSWER],
        [USER, call()],
        [USER, {**ANSWER, "weight": 0}, USER, {**ANSWER, "weight": 1}],
        [{"role": "user", "content": [{"type": "text", "text": "a"}], "name": "ann"}, ANSWER],
        [USER, {**ANSWER, "refusal": None, "annotations": [], "audio": None, "tool_calls": None}],
        [{**USER, "weight": None, "tool_call_id": None}, ANSWER],
    ],
)
def test_rows_in_openais_form_are_accepted(messages: list[Any]) -> None:
    assert faults_of(*messages) == []
    assert faults_of(*messages, tools=TOOLS, parallel_tool_calls=False, id="row-1") == []


@pytest.mark.parametrize(
    ("messages", "param", "reason"),
    [
        ([USER, "b"], "messages[1]", "expected an object with role and content"),
        ([USER, {"role": "bot", "content": "b"}, ANSWER], "messages[1].role", "role 'bot' is not one of"),
        ([{"role": "user", "content": None}, ANSWER], "messages[0].content", "must be text, found null"),
        ([{"role": "user", "content": []}, ANSWER], "messages[0].content", "must be text, found []"),
        ([USER, {"role": "assistant", "content": ""}], "messages[1].content", "must be text, found ''"),
        ([USER, {"role": "assistant", "content": None}], "messages[1].content", "must be text, found null"),
        ([USER, {**ANSWER, "weight": 2}], "messages[1].weight", "weight must be 0 or 1, found 2"),
        ([USER, {**ANSWER, "weight": "1"}], "messages[1].weight", "weight must be 0 or 1, found '1'"),
        ([USER, {**ANSWER, "weight": True}], "messages[1].weight", "weight must be 0 or 1, found True"),
        ([{**USER, "weight": 1}, ANSWER], "messages[0].weight", "unknown key 'weight': a message by user"),
        ([{**USER, "weight": 0}, ANSWER], "messages[0].weight", "unknown key 'weight': a message by user"),
        ([USER, {**ANSWER, "function_call": {}}], "messages[1].function_call", "unknown key 'function_call'"),
        ([USER, ANSWER, USER], "messages[2]", "the last message is by user"),
        ([USER, result("c9"), ANSWER], "messages[1].tool_call_id", "'c9' was never called"),
        ([USER, call(), result(), result(), ANSWER], "messages[3].tool_call_id", "'c1' is answered already"),
        ([USER, call(), ANSWER], "messages[1].tool_calls[0]", "the call 'c1' is never answered"),
        (
            [USER, call(arguments="{city: Oslo}")],
            "messages[1].tool_calls[0].function.arguments",
            "the arguments are not JSON",
        ),
        (
            [USER, call(arguments="[1]")],
            "messages[1].tool_calls[0].function.arguments",
            "the arguments are [1]",
        ),
        ([USER, call(name="no space")], "messages[1].tool_calls[0].function.name", "found 'no space'"),
        (
            [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}, ANSWER],
            "messages[0].content[0]",
            "content part of type 'image_url'",
        ),
    ],
)
def test_a_message_out_of_form_is_named_by_its_index(messages: list[Any], param: str, reason: str) -> None:
    (found, said), *more = faults_of(*messages)
    assert (found, reason in said) == (param, True), said
    assert more == []


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"messages": None}, "must be a list with at least one message"),
        ({"messages": []}, "must be a list with at least one message"),
        ({"messages": [USER, ANSWER], "functions": [{}]}, "unknown key 'functions'"),
        ({"messages": [USER, ANSWER], "parallel_tool_calls": "yes"}, "must be true or false"),
        ({"messages": [USER, ANSWER], "tools": [{"name": "weather"}]}, "expected a tool"),
        ({"messages": [USER, call("wether")], "tools": TOOLS}, "calls 'wether', which is not among"),
    ],
)
def test_a_row_out_of_form_is_refused(row: dict[str, Any], reason: str) -> None:
    (fault,) = chat_faults(row)
    assert reason in fault.reason


@pytest.mark.parametrize(
    ("row", "remedy"),
    [
        ({"messages": [USER, {"role": "asistant", "content": "b"}]}, "did you mean assistant?"),
        ({"messages": [{**USER, "nam": "x"}, ANSWER]}, "did you mean name?"),
        ({"messages": [USER, ANSWER], "tool": [1]}, "did you mean tools?"),
        ({"messages": [USER, call("wether")], "tools": TOOLS}, "did you mean weather?"),
    ],
)
def test_a_misspelt_word_gets_its_nearest_neighbour(row: dict[str, Any], remedy: str) -> None:
    assert [fault.remedy for fault in chat_faults(row)] == [remedy]


def test_all_faults_of_a_row_are_found() -> None:
    faults = faults_of({"role": "user", "content": None}, {"role": "bot"}, result("c9"), USER)
    assert [param for param, _ in faults] == [
        "messages[0].content",
        "messages[1].role",
        "messages[2].tool_call_id",
        "messages[3]",
    ]


def test_templates_get_objects_as_arguments_and_one_text_for_parts() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    turned = template_messages([{"role": "developer", "content": parts}, call(), result()])
    assert turned[0] == {"role": "system", "content": "a\nb"}
    assert turned[1]["tool_calls"][0]["function"]["arguments"] == {"city": "Oslo"}
    assert turned == template_messages(
        [{"role": "developer", "content": "a\nb"}, call(arguments={"city": "Oslo"}), result()]
    )
