"""What only the deployed application can show; its HTTP surface in detail is in tests/unit/serving."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import httpx
import openai
import psutil
import pytest

from cluster.cards import ModelCard
from cluster.head_record import HeadRecord, processes
from cluster.registry import Registry
from cluster.serve_proxy import haproxy_binary
from serving.body_limit import MAX_BODY_BYTES

# A Python with LangChain and LlamaIndex.
CLIENTS_PYTHON = os.environ.get("CLIENTS_PYTHON")
LOOPBACK = {"127.0.0.1", "::ffff:127.0.0.1"}
QUESTION = "The travel agency that arranges our flights: what is it called?"


def ask(client: openai.OpenAI, model: str, text: str, **options: object) -> openai.types.chat.ChatCompletion:
    messages = [{"role": "user", "content": text}]
    return client.chat.completions.create(  # type: ignore[call-overload, no-any-return]
        model=model, messages=messages, temperature=0, **{"max_tokens": 24, **options}
    )


def test_the_same_question_is_answered_plainly_and_from_documents(client: openai.OpenAI) -> None:
    plain = ask(client, "smollm2", QUESTION)
    grounded = ask(client, "smollm2+rag", QUESTION)
    automatic = ask(client, "auto", QUESTION)
    assert "Bluefin" not in (plain.choices[0].message.content or "")
    for answer in (grounded, automatic):
        assert "Bluefin" in (answer.choices[0].message.content or "")
        extension = (answer.model_extra or {})["hamlet"]
        assert extension["route"] == "rag"
        assert extension["hits"][0]["filename"] == "travel.md"
        assert (answer.choices[0].message.annotations or [])[0].type == "file_citation"


def test_small_talk_is_not_retrieved_for(client: openai.OpenAI) -> None:
    answer = ask(client, "auto", "Hello, how are you today?")
    assert (answer.model_extra or {})["hamlet"]["route"] == "plain"


def test_a_stream_arrives_piece_by_piece_and_equals_the_whole_answer(client: openai.OpenAI) -> None:
    whole = ask(client, "smollm2", "Count to ten.", max_tokens=24)
    spreads_s = []
    for _ in range(5):
        times, text, usage = [], "", None
        for chunk in ask(
            client,
            "smollm2",
            "Count to ten.",
            max_tokens=24,
            stream=True,
            stream_options={"include_usage": True},
        ):
            times.append(time.perf_counter())
            text += (chunk.choices[0].delta.content or "") if chunk.choices else ""  # type: ignore[attr-defined]
            usage = chunk.usage or usage
        assert text == whole.choices[0].message.content
        assert usage == whole.usage
        spreads_s.append(times[-1] - times[0])
        if spreads_s[-1] > 0.1:
            break  # on a busy machine this process may be the one that comes late, and finds all of it
    assert max(spreads_s) > 0.1


def test_an_adapter_registered_now_is_served_without_a_restart(
    client: openai.OpenAI, make_adapter: Callable[[], ModelCard]
) -> None:
    with pytest.raises(openai.NotFoundError):
        ask(client, "prod", "Hi")
    card = make_adapter()
    models = Registry()
    models.register(card)
    models.promote("prod", card.id)
    with ThreadPoolExecutor(4) as pool:
        names = ["smollm2", card.id, "prod", f"{card.id}+rag"]
        answers = dict(zip(names, pool.map(lambda name: ask(client, name, QUESTION), names), strict=True))
    assert answers["prod"].model == card.id
    texts = {name: answer.choices[0].message.content for name, answer in answers.items()}
    assert texts[card.id] != texts["smollm2"]
    assert (answers["prod"].model_extra or {})["hamlet"]["route"] == "tuned"
    assert (answers[f"{card.id}+rag"].model_extra or {})["hamlet"]["route"] == "tuned+rag"
    assert card.id in [model.id for model in client.models.list()]
    models.delete(card.id)


# In the form of Hermes and Qwen, for a base whose own template knows no tools.
TOOL_TEMPLATE = """
{%- if tools %}<|im_start|>system
Functions: {% for tool in tools %}{{ tool | tojson }}{% endfor %}<|im_end|>
{% endif %}
{%- for message in messages %}<|im_start|>{{ message.role }}
{{ message.content }}
{%- for call in message.tool_calls or [] %}<tool_call>{{ call.function | tojson }}</tool_call>{% endfor %}<|im_end|>
{% endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""


def test_functions_are_called_by_a_model_that_was_made_for_them(
    client: openai.OpenAI, make_adapter: Callable[..., ModelCard]
) -> None:
    pytest.importorskip("vllm", reason="vLLM reads the calls")
    unit = {"enum": ["celsius", "fahrenheit"]}
    parameters = {"properties": {"unit": unit}, "required": ["unit"], "additionalProperties": False}
    weather: Any = {
        "type": "function",
        "function": {"name": "get_weather", "parameters": {"type": "object"} | parameters, "strict": True},
    }
    card = make_adapter(chat_template=TOOL_TEMPLATE)
    Registry().register(card)
    asked: Any = {
        "model": card.id,
        "messages": [{"role": "user", "content": "How warm is it?"}],
        "tools": [weather],
        "tool_choice": "required",
        "parallel_tool_calls": False,
        "temperature": 0,
        "max_tokens": 64,
    }
    [choice] = client.chat.completions.create(**asked).choices
    [call] = choice.message.tool_calls or ()
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", None)
    assert call.type == "function"
    assert call.function.name == "get_weather"
    assert json.loads(call.function.arguments)["unit"] in unit["enum"]

    with client.chat.completions.stream(**asked) as stream:
        [streamed] = stream.get_final_completion().choices[0].message.tool_calls or ()
    assert streamed.function.arguments == call.function.arguments

    result: Any = {"role": "tool", "tool_call_id": call.id, "content": "18"}
    messages = [*asked["messages"], choice.message, result]
    answered = asked | {"messages": messages, "tool_choice": "auto", "max_tokens": 4}
    assert client.chat.completions.create(**answered).choices[0].message
    with pytest.raises(openai.BadRequestError, match="chat template leaves tools out"):
        client.chat.completions.create(**asked | {"model": "smollm2"})


def test_pairs_are_classified_alone_and_in_batches_and_long_ones_are_cut(
    base_url: str, client: openai.OpenAI, make_classifier: Callable[[], ModelCard]
) -> None:
    card = make_classifier()
    Registry().register(card)
    pairs = [["He left.", "He went away."], ["word " * 700, "short"], ["a", "b"]]
    with httpx.Client(base_url=base_url, timeout=60) as http:

        def classify(value: object) -> httpx.Response:
            return http.post("/v1/classify", json={"model": card.id, "input": value})

        together = classify(pairs).json()["data"]
        assert [item["truncated"] for item in together] == [False, True, False]
        for pair, item in zip(pairs, together, strict=True):
            (alone,) = classify([pair]).json()["data"]
            assert alone["scores"] == pytest.approx(item["scores"], abs=1e-3)
            assert sum(item["scores"].values()) == pytest.approx(1)
        with ThreadPoolExecutor(4) as pool:
            values = [[["a", "b"]], [["a", 123]], [["a", ""]], [["c", "d"]]]
            assert [r.status_code for r in pool.map(classify, values)] == [200, 400, 400, 200]
    verdict = ask(client, "auto", "Sentence 1: He left.\nSentence 2: He went away.")
    assert (verdict.model_extra or {})["hamlet"]["route"] == "classifier"


def test_embeddings_through_the_official_client(client: openai.OpenAI) -> None:
    by_base64 = client.embeddings.create(model="minilm", input=["hello", "a longer sentence about boilers"])
    by_float = client.embeddings.create(
        model="minilm", input=["hello", "a longer sentence about boilers"], encoding_format="float"
    )
    for one, other in zip(by_base64.data, by_float.data, strict=True):
        assert len(one.embedding) == 384
        assert one.embedding == pytest.approx(other.embedding, abs=1e-2)
    with pytest.raises(openai.BadRequestError, match="tokens"):
        client.embeddings.create(model="minilm", input=["fine", "word " * 600])


def test_a_file_in_a_vector_store_is_read_searched_and_answered_from(client: openai.OpenAI) -> None:
    store = client.vector_stores.create(name="trips")
    file = client.vector_stores.files.upload_and_poll(
        vector_store_id=store.id, file=("agency.md", b"Flights are arranged by the travel agency Bluefin.")
    )
    assert (file.status, file.last_error) == ("completed", None)
    page = client.vector_stores.search(store.id, query=QUESTION)
    assert "Bluefin" in page.data[0].content[0].text
    tool = {"type": "file_search", "vector_store_ids": [store.id]}
    answer = ask(client, "smollm2", QUESTION, tools=[tool])
    assert (answer.model_extra or {})["hamlet"]["hits"][0]["file_id"] == file.id
    assert "vs_handbook" in [listed.id for listed in client.vector_stores.list()]
    client.vector_stores.delete(store.id)


def test_one_trace_spans_router_retriever_and_generator(client: openai.OpenAI, collector: Any) -> None:
    trace_id, caller = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
    headers = {"traceparent": f"00-{trace_id}-{caller}-01"}
    ask(client, "smollm2+rag", QUESTION, extra_headers=headers)
    wanted = {
        ("hamlet-router", "POST /v1/chat/completions"): "",
        ("hamlet-router", "embed"): "POST /v1/chat/completions",
        ("hamlet-embedder", "embedder.embed"): "embed",
        ("hamlet-router", "search"): "POST /v1/chat/completions",
        ("hamlet-retriever", "retriever.search"): "search",
        ("hamlet-router", "generate"): "POST /v1/chat/completions",
        ("hamlet-generator", "generator.run"): "generate",
    }
    deadline = time.monotonic() + 20
    parents: dict[tuple[str, str], str] = {}
    while not wanted.keys() <= parents.keys() and time.monotonic() < deadline:
        time.sleep(0.1)
        traced = [(service, span) for service, span in collector.spans if span.trace_id.hex() == trace_id]
        names = {span.span_id: span.name for _, span in traced}
        parents = {(service, span.name): names.get(span.parent_span_id, "") for service, span in traced}
    assert wanted.items() <= parents.items()


def test_generation_ends_when_the_client_leaves(base_url: str, client: openai.OpenAI) -> None:
    body = {
        "model": "smollm2",
        "messages": [{"role": "user", "content": "Write a very long story."}],
        "max_tokens": 1500,
        "stream": True,
    }
    # More long answers than would end within the deadline, all left behind.
    for _ in range(8):
        with httpx.stream("POST", f"{base_url}/v1/chat/completions", json=body, timeout=60) as response:
            next(response.iter_lines())
    started = time.monotonic()
    answer = ask(client, "smollm2", "Hi", max_tokens=8)
    assert answer.usage is not None
    # 8 answers of 1,500 tokens take minutes on the machine that shares its cores with them.
    assert time.monotonic() - started < 10
    assert httpx.get(f"{base_url}/readyz", timeout=10).status_code == 200


def test_haproxy_is_in_front_and_what_listens_on_other_interfaces_demands_the_token(
    base_url: str, head: HeadRecord
) -> None:
    family = {process.pid: process for process in processes(head)}
    names = {process.name() for process in family.values()}
    assert ("haproxy" in names) == (haproxy_binary() is not None)
    listening = [
        c for c in psutil.net_connections("tcp") if c.pid in family and c.status == psutil.CONN_LISTEN
    ]
    outside = [c for c in listening if c.laddr.ip not in LOOPBACK]
    # Ray gives a replica no choice of interface for the calls of other deployments.
    assert outside
    assert all(family[c.pid].name().startswith("ray::ServeRepli") for c in outside)
    for connection in outside:
        _assert_token_is_demanded(connection.laddr.port)


def _assert_token_is_demanded(port: int) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = channel.unary_unary("/ray.serve.ASGIService/HandleRequest")
        with pytest.raises(grpc.RpcError) as refused:
            call(b"", timeout=10)
    assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED


def test_errors_come_in_openais_shape_with_an_id(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        ask(client, "smollm2", "Hi", max_tokens=100_000)
    assert refused.value.code == "context_length_exceeded"
    assert refused.value.request_id
    with pytest.raises(openai.NotFoundError):
        ask(client, "nothing", "Hi")


def test_clients_who_leave_take_no_other_along_whose_texts_were_embedded_with_theirs(base_url: str) -> None:
    body = json.dumps({"model": "minilm", "input": "hello"})
    address = httpx.URL(base_url)
    head = f"POST /v1/embeddings HTTP/1.1\r\nHost: {address.host}\r\nContent-Type: application/json\r\n"
    request = f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode()

    def leave(number: int) -> None:
        with socket.create_connection((address.host, address.port or 80)) as connection:
            connection.sendall(request)
            time.sleep(0.002 * (number % 10))  # at any moment of the call

    def embed(number: int) -> int | None:
        if number % 3 == 0:
            leave(number)
            return None
        headers = {"content-type": "application/json"}
        return client.post(f"{base_url}/v1/embeddings", content=body, headers=headers).status_code

    with httpx.Client(timeout=60) as client, ThreadPoolExecutor(24) as pool:
        statuses = list(pool.map(embed, range(240)))
    assert set(statuses) == {200, None}


def test_a_large_body_passes_the_proxy_whole_and_one_above_the_limit_is_told_so(
    base_url: str, client: openai.OpenAI
) -> None:
    body = json.dumps({"model": "minilm", "input": "hello"}).encode()
    headers = {"content-type": "application/json"}
    with httpx.Client(base_url=base_url, timeout=60, headers=headers) as http:
        for num_bytes, status in ((MAX_BODY_BYTES, 200), (MAX_BODY_BYTES + 1, 413), (len(body), 200)):
            answer = http.post("/v1/embeddings", content=body.ljust(num_bytes))
            assert answer.status_code == status
        assert http.post("/v1/embeddings", content=body.ljust(4 * MAX_BODY_BYTES)).status_code == 413
    file = client.files.create(file=("large.txt", b"a" * 2 * MAX_BODY_BYTES), purpose="user_data")
    assert file.bytes == 2 * MAX_BODY_BYTES


def test_what_the_engine_refuses_is_the_callers_mistake(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.completions.create(model="smollm2", prompt=[999_999], max_tokens=2)
    assert refused.value.param == "prompt"
    pytest.importorskip("vllm", reason="vLLM makes the grammars")
    schema: Any = {"name": "none", "schema": {"$ref": "#/$defs/missing"}}
    with pytest.raises(openai.BadRequestError) as refused:
        ask(client, "smollm2", "Hi", response_format={"type": "json_schema", "json_schema": schema})
    assert refused.value.param == "response_format"


def test_a_replica_that_dies_costs_503s_and_never_a_500_and_comes_back(
    base_url: str, head: HeadRecord
) -> None:
    body = {"model": "minilm", "input": "hello"}
    with httpx.Client(base_url=base_url, timeout=60) as http:
        (replica,) = [p for p in processes(head) if "ServeReplica:hamlet:embedder" in " ".join(p.cmdline())]
        replica.kill()
        statuses = []
        deadline = time.monotonic() + 60
        while statuses.count(200) < 5 and time.monotonic() < deadline:
            response = http.post("/v1/embeddings", json=body)
            statuses.append(response.status_code)
            if response.status_code == 503:
                assert int(response.headers["retry-after"]) >= 1
    assert statuses.count(200) == 5
    assert set(statuses) <= {200, 503}


@pytest.mark.skipif(CLIENTS_PYTHON is None, reason="needs CLIENTS_PYTHON (docs/serving.md)")
@pytest.mark.parametrize("library", ["langchain", "llama_index"])
def test_other_libraries_classes_for_openai_work_unchanged(base_url: str, library: str) -> None:
    program = Path(__file__).with_name("other_clients.py")
    command = [str(CLIENTS_PYTHON), str(program), f"{base_url}/v1"]
    results = json.loads(
        subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout
    )
    got = results[library]
    assert got["whole"] == got["streamed"] != ""
    assert "Bluefin" in got["grounded"]
    assert got["dimensions"] == [384, 384]
