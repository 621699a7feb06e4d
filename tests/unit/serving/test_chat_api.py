from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from starlette.testclient import TestClient

from cluster.cards import Parity
from serving.completions import PROMPTS_AT_ONCE
from serving.config import ServingConfig
from serving.schemas import MAX_PROMPTS
from serving.scripted_engine import ScriptedEngine
from serving.scripted_parts import ScriptedApplication, scripted_passage

Ask = Callable[..., Any]


def error_of(response: Any) -> dict[str, Any]:
    error: dict[str, Any] = response.json()["error"]
    return error


def events_of(response: Any) -> list[dict[str, Any]]:
    """Every data line but the last, which must be [DONE]."""
    lines = [line for line in response.text.split("\n\n") if line]
    assert lines[-1] == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]


def text_of(events: list[dict[str, Any]], index: int = 0) -> str:
    choices = [choice for event in events for choice in event["choices"] if choice["index"] == index]
    return "".join(choice["delta"].get("content") or "" for choice in choices)


def test_an_answer_has_openais_shape_and_counts_its_tokens(chat: Ask) -> None:
    response = chat("Hi there")
    body = response.json()
    assert response.status_code == 200
    assert body["object"] == "chat.completion"
    assert body["choices"][0]["message"]["content"] == "Hello, world."
    assert body["choices"][0]["finish_reason"] == "stop"
    assert body["usage"] == {"prompt_tokens": 5, "completion_tokens": 4, "total_tokens": 9}
    assert response.headers["x-request-id"].startswith("req_")


@pytest.mark.parametrize("name", ["smollm2", "builtin:smollm2"])
def test_the_base_answers_to_its_reference_and_its_short_name(chat: Ask, name: str) -> None:
    assert chat(model=name).json()["model"] == "smollm2"


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"n": 0}, "n"),
        ({"n": 17}, "n"),
        ({"temperature": 2.5}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"stop": ["a", "b", "c", "d", "e"]}, "stop"),
        ({"stop": [""]}, "stop"),
        ({"tools": []}, "tools"),
        ({"functions": []}, "functions"),
        ({"messages": [{"role": "user", "content": "x", "name": "ann"}]}, "messages[0].name"),
        ({"logit_bias": {"1": 2}}, "logit_bias"),
        ({"foo": 1}, "foo"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "bot", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": "x"}, {"role": "user"}]}, "messages[1].content"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": "half \ud835"}]}, "messages[0].content"),
        ({"max_tokens": 3, "max_completion_tokens": 4}, "max_completion_tokens"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        ({"hamlet": {"top_k": 0}}, "hamlet.top_k"),
        ({"hamlet": {"tenant": "other"}}, "hamlet.tenant"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(chat: Ask, changes: dict[str, Any], param: str) -> None:
    response = chat(**changes)
    assert response.status_code == 400
    assert error_of(response)["param"] == param
    assert error_of(response)["type"] == "invalid_request_error"


def test_a_body_that_is_no_json_is_the_callers_mistake(world: ScriptedApplication) -> None:
    headers = {"content-type": "application/json"}
    response = TestClient(world.app).post("/v1/chat/completions", content=b'{"model": ', headers=headers)
    assert response.status_code == 400
    assert "no JSON" in error_of(response)["message"]


def test_an_unknown_path_or_method_has_an_error_object(world: ScriptedApplication) -> None:
    client = TestClient(world.app)
    assert error_of(client.get("/v1/nothing"))["code"] == "unknown_url"
    assert client.get("/v1/chat/completions").status_code == 405


def test_labels_and_nulls_of_official_clients_are_accepted(chat: Ask) -> None:
    labels = {
        "user": "u",
        "metadata": {"a": "b"},
        "store": False,
        "temperature": None,
        "logprobs": None,
        "n": None,
        "stop": None,
    }
    assert chat(**labels).status_code == 200


@pytest.mark.parametrize(
    "name", ["functions", "function_call", "logit_bias", "reasoning_effort", "verbosity"]
)
def test_a_null_asks_for_nothing_and_a_value_for_what_is_not_offered(chat: Ask, name: str) -> None:
    assert chat(**{name: None}).status_code == 200
    refused = error_of(chat(**{name: "low"}))
    assert (refused["param"], refused["code"]) == (name, "unsupported_parameter")


def test_an_answer_of_ours_can_be_sent_back_as_history(world: ScriptedApplication, chat: Ask) -> None:
    answer = chat("Hi").json()["choices"][0]["message"]
    messages = [{"role": "user", "content": "Hi"}, answer, {"role": "user", "content": "Go on"}]
    assert chat(messages=messages).status_code == 200
    assert "Hello, world." in world.prompt()


def test_text_parts_become_one_text(world: ScriptedApplication, chat: Ask) -> None:
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    assert chat(messages=[{"role": "user", "content": parts}]).status_code == 200
    assert "one two" in world.prompt()


def test_a_prompt_beyond_the_context_is_refused_with_both_numbers(
    world: ScriptedApplication, chat: Ask
) -> None:
    world.engine.max_model_len_tokens = 1024
    response = chat("word " * 1097)
    assert response.status_code == 400
    error = error_of(response)
    assert error["code"] == "context_length_exceeded"
    assert "1100" in error["message"]
    assert "1024" in error["message"]


@pytest.mark.parametrize("changes", [{}, {"max_tokens": 2000}])
def test_a_bare_prompt_beyond_the_context_is_named_as_it_was_sent(
    world: ScriptedApplication, post: Ask, changes: dict[str, int]
) -> None:
    world.engine.max_model_len_tokens = 1024
    num_words = 10 if changes else 1100
    error = error_of(post("/v1/completions", model="smollm2", prompt="word " * num_words, **changes))
    assert error["param"] == ("max_tokens" if changes else "prompt")
    assert "shorten the prompt" in error["message"]


def test_an_answer_that_does_not_fit_beside_its_prompt_is_refused(
    world: ScriptedApplication, chat: Ask
) -> None:
    response = chat("word " * 997, max_tokens=500)
    assert response.status_code == 400
    assert error_of(response)["param"] == "max_tokens"
    assert "24" in error_of(response)["message"]
    assert chat("word " * 997, max_tokens=24).status_code == 200


@pytest.mark.parametrize("model", ["smollm2", "smollm2+rag"])
@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_a_limit_beyond_the_context_is_named_as_it_was_sent(
    world: ScriptedApplication, chat: Ask, model: str, name: str
) -> None:
    world.retriever.by_tenant["default"] = [scripted_passage(1, "a fact")]
    response = chat(model=model, **{name: 5000})
    error = error_of(response)
    assert (response.status_code, error["code"], error["param"]) == (400, "context_length_exceeded", name)
    assert f"lower {name}" in error["message"]


def test_without_max_tokens_the_answer_gets_what_is_left(world: ScriptedApplication, chat: Ask) -> None:
    world.engine.script = ["w"] * 100
    body = chat("word " * 1011).json()
    assert body["usage"]["completion_tokens"] == 10
    assert body["choices"][0]["finish_reason"] == "length"


def test_stop_sequences_end_the_text_before_they_begin(world: ScriptedApplication, chat: Ask) -> None:
    world.engine.script = ["Total", ": 4", "\nUs", "er:", " hi"]
    choice = chat(stop=["\nUser:"]).json()["choices"][0]
    assert choice["message"]["content"] == "Total: 4"
    assert choice["finish_reason"] == "stop"
    assert text_of(events_of(chat(stop="\nUser:", stream=True))) == "Total: 4"


@pytest.mark.parametrize("temperature", [0, 1])
def test_n_answers_have_their_indices_and_the_prompt_counts_once(
    world: ScriptedApplication, chat: Ask, temperature: float
) -> None:
    body = chat(n=3, temperature=temperature).json()
    assert [choice["index"] for choice in body["choices"]] == [0, 1, 2]
    assert {choice["message"]["content"] for choice in body["choices"]} == {"Hello, world."}
    assert body["usage"] == {"prompt_tokens": 4, "completion_tokens": 12, "total_tokens": 16}
    events = events_of(chat(n=3, temperature=temperature, stream=True))
    assert [text_of(events, index) for index in range(3)] == ["Hello, world."] * 3
    finishes = [c["index"] for event in events for c in event["choices"] if c["finish_reason"]]
    assert sorted(finishes) == [0, 1, 2]
    # Several greedy answers are one: the engine is asked for one.
    assert world.engine.samplings[-1].n == (1 if temperature == 0 else 3)


def test_a_stream_tells_usage_only_when_asked(chat: Ask) -> None:
    plain = chat().json()["usage"]
    with_usage = events_of(chat(stream=True, stream_options={"include_usage": True}))
    assert with_usage[-1]["choices"] == []
    assert with_usage[-1]["usage"] == plain
    assert all(event["usage"] is None for event in with_usage[:-1])
    for options in (None, {"include_usage": False}):
        events = events_of(chat(stream=True, stream_options=options))
        assert all("usage" not in event and event["choices"] for event in events)


def test_a_stream_begins_with_a_role_and_ends_with_one_finish_reason(chat: Ask) -> None:
    response = chat(stream=True)
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["cache-control"] == "no-cache"
    assert response.headers["x-accel-buffering"] == "no"
    events = events_of(response)
    assert events[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert [e["choices"][0]["finish_reason"] for e in events].count("stop") == 1
    assert events[-1]["choices"][0]["finish_reason"] == "stop"
    assert len({event["id"] for event in events}) == 1


def test_characters_split_over_tokens_arrive_whole(world: ScriptedApplication, chat: Ask) -> None:
    emoji = "👍🏽".encode()
    world.engine.script = ["ok ", *(bytes([byte]) for byte in emoji), " done"]
    events = events_of(chat(stream=True))
    pieces = [c["delta"].get("content", "") for event in events for c in event["choices"]]
    assert "".join(pieces) == "ok 👍🏽 done" == chat().json()["choices"][0]["message"]["content"]
    assert not any("\ufffd" in piece for piece in pieces)
    assert "" not in pieces[1:-1]


def test_log_probabilities_are_shown_when_asked(world: ScriptedApplication, chat: Ask) -> None:
    tokens = chat(logprobs=True, top_logprobs=2).json()["choices"][0]["logprobs"]["content"]
    assert [token["token"] for token in tokens] == ["Hello", ",", " world", "."]
    assert len(tokens[0]["top_logprobs"]) == 2
    assert tokens[0]["bytes"] == list(b"Hello")
    assert chat().json()["choices"][0]["logprobs"] is None
    world.engine.features = frozenset()
    assert error_of(chat(logprobs=True))["param"] == "logprobs"


def test_an_engine_that_fails_before_the_first_token_is_a_503(world: ScriptedApplication, chat: Ask) -> None:
    world.engine.fail_after_steps = 0
    for stream in (False, True):
        response = chat(stream=stream)
        assert response.status_code == 503
        assert response.headers["retry-after"] == "10"


def test_a_stream_that_breaks_off_ends_with_an_error_and_without_done(
    world: ScriptedApplication, chat: Ask
) -> None:
    world.engine.script = ["w "] * 20
    world.engine.fail_after_steps = 5
    response = chat(stream=True)
    lines = [line for line in response.text.split("\n\n") if line]
    assert "error" in json.loads(lines[-1].removeprefix("data: "))
    assert "[DONE]" not in response.text
    assert '"finish_reason":"stop"' not in response.text


def test_a_fault_of_ours_is_a_500_with_an_id_and_no_detail(world: ScriptedApplication, chat: Ask) -> None:
    def broken(*_: object) -> list[str]:
        raise ZeroDivisionError("secret detail")

    world.engine = ScriptedEngine(script=broken)
    response = chat()
    assert response.status_code == 500
    assert response.headers["x-request-id"] in error_of(response)["message"]
    assert "secret" not in response.text


def test_a_registered_adapter_answers_by_name_and_by_alias(
    world: ScriptedApplication, chat: Ask, make_card: Callable[..., Any]
) -> None:
    assert chat(model="ft:smollm2:acme:handbook:1").status_code == 404
    world.cards.append(make_card())
    world.aliases["prod"] = "ft:smollm2:acme:handbook:1"
    for name in ("ft:smollm2:acme:handbook:1", "prod"):
        body = chat(model=name).json()
        assert body["model"] == "ft:smollm2:acme:handbook:1"
        assert body["hamlet"]["route"] == "tuned"
        adapter = world.engine.adapters[-1]
        assert adapter is not None
        assert (adapter.name, adapter.weights_uri, adapter.rank) == (
            "ft:smollm2:acme:handbook:1",
            "/weights",
            8,
        )


@pytest.mark.parametrize(
    ("changes", "status", "reason"),
    [
        ({"parity": Parity(passed=False, max_metric_difference=1.0, detail="ids differ")}, 409, "ids differ"),
        ({"base_model": "builtin:other"}, 404, "builtin:other"),
        ({"is_adapter": False}, 404, "further_generators"),
    ],
)
def test_a_card_that_cannot_be_served_is_refused_with_the_reason(
    world: ScriptedApplication,
    chat: Ask,
    make_card: Callable[..., Any],
    changes: dict[str, Any],
    status: int,
    reason: str,
) -> None:
    world.cards.append(make_card(**changes))
    response = chat(model="ft:smollm2:acme:handbook:1")
    assert response.status_code == status
    assert reason in error_of(response)["message"]


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_goes_to_the_deployment_that_hosts_the_model(
    world: ScriptedApplication, chat: Ask, make_card: Callable[..., Any], stream: bool
) -> None:
    whole = "ft:smollm2:acme:whole:0a1b2c3d"
    world.config = ServingConfig.model_validate({"further_generators": [{"model": whole}]})
    world.cards.append(make_card(whole, is_adapter=False, lora_rank=None))
    other = world.further_engines["generator-0a1b2c3d"] = ScriptedEngine(["Aye"])
    assert "Aye" in chat(model=whole, stream=stream).text
    assert "Aye" not in chat(stream=stream).text
    assert "Aye" not in chat(model="auto", stream=stream).text
    text = TestClient(world.app).post(
        "/v1/completions", json={"model": whole, "prompt": "Hi", "stream": stream}
    )
    assert "Aye" in text.text
    assert other.adapters == [None, None]
    assert len(world.engine.prompts) == 2


def test_readiness_asks_every_generator(world: ScriptedApplication) -> None:
    world.config = ServingConfig.model_validate({"further_generators": [{"model": "Qwen/Qwen3-1B"}]})
    world.further_engines["generator-qwen3-1b"] = ScriptedEngine(healthy=False)
    response = TestClient(world.app).get("/readyz")
    assert response.status_code == 503
    parts = response.json()["parts"]
    assert parts["generator"] == "ready"
    assert parts["generator-qwen3-1b"] == "the generation engine has died"


def test_prompts_of_an_adapter_are_rendered_with_its_own_template(
    world: ScriptedApplication, chat: Ask, make_card: Callable[..., Any]
) -> None:
    world.cards.append(make_card(chat_template="{% for m in messages %}TRAINED {{ m.content }}{% endfor %}"))
    chat("Hi", model="ft:smollm2:acme:handbook:1")
    assert world.prompt() == "TRAINED Hi"


def test_models_lists_bases_cards_aliases_and_auto(
    world: ScriptedApplication, make_card: Callable[..., Any]
) -> None:
    world.cards.append(make_card())
    # The last ones were made before such models were deployed, and mean nothing.
    world.aliases |= dict.fromkeys(("prod", "smollm2", "minilm", "auto"), "ft:smollm2:acme:handbook:1")
    client = TestClient(world.app)
    names = [model["id"] for model in client.get("/v1/models").json()["data"]]
    assert names == ["smollm2", "minilm", "ft:smollm2:acme:handbook:1", "prod", "auto"]
    for name in (*names, "smollm2+rag"):
        assert client.get(f"/v1/models/{name}").json()["id"] == name
    for name in ("nothing", "minilm+rag"):
        assert client.get(f"/v1/models/{name}").status_code == 404


def test_bare_prompts_are_completed_and_counted(post: Ask, world: ScriptedApplication) -> None:
    body = post("/v1/completions", model="smollm2", prompt=["one two", "three"], n=2).json()
    assert [choice["index"] for choice in body["choices"]] == [0, 1, 2, 3]
    assert body["usage"] == {"prompt_tokens": 3, "completion_tokens": 16, "total_tokens": 19}
    assert world.prompt() == "three"
    response = post("/v1/completions", model="smollm2", prompt="x", stream=True)
    assert "".join(e["choices"][0]["text"] for e in events_of(response)) == "Hello, world."


def test_a_streamed_completion_has_the_log_probabilities_of_a_whole_one(
    post: Ask, world: ScriptedApplication
) -> None:
    # The first half of a character is a token without text.
    world.engine.script = ["ok ", *(bytes([byte]) for byte in "é".encode()), " done"]
    asked = {"model": "smollm2", "prompt": "x", "n": 2, "logprobs": 1}
    whole = post("/v1/completions", **asked).json()["choices"]
    streamed = [
        choice for e in events_of(post("/v1/completions", **asked, stream=True)) for choice in e["choices"]
    ]
    for index in (0, 1):
        chunks = [choice["logprobs"] for choice in streamed if choice["index"] == index]
        joined = {name: [value for chunk in chunks for value in chunk[name]] for name in chunks[0]}
        assert joined == whole[index]["logprobs"]
    plain = events_of(post("/v1/completions", model="smollm2", prompt="x", stream=True))
    assert {e["choices"][0]["logprobs"] for e in plain} == {None}


def test_many_prompts_are_generated_a_few_at_a_time(post: Ask, world: ScriptedApplication) -> None:
    num_running: list[int] = []

    def script(prompt: list[int], adapter: object) -> list[str]:
        num_running.append(world.engine.num_running + 1)
        return ["yes"]

    world.engine.script = script
    body = post("/v1/completions", model="smollm2", prompt=["x"] * MAX_PROMPTS).json()
    assert len(body["choices"]) == MAX_PROMPTS
    assert max(num_running) == PROMPTS_AT_ONCE


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"prompt": []}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": ["x"] * (MAX_PROMPTS + 1)}, "prompt"),
        ({"prompt": [[1]] * (MAX_PROMPTS + 1)}, "prompt"),
        ({"model": "auto"}, "model"),
        ({"prompt": [-1]}, "prompt"),
        ({"prompt": [[1, -1]]}, "prompt"),
        ({"prompt": [True]}, "prompt"),
        ({"prompt": ["x", 1]}, "prompt"),
        ({"prompt": None}, "prompt"),
        ({"echo": True}, "echo"),
        ({"best_of": 2}, "best_of"),
        ({"logit_bias": {"1": 2}}, "logit_bias"),
    ],
)
def test_completions_refuse_what_they_cannot_do(post: Ask, changes: dict[str, Any], param: str) -> None:
    response = post("/v1/completions", **({"model": "smollm2", "prompt": "x"} | changes))
    assert response.status_code == 400
    assert error_of(response)["param"] == param
