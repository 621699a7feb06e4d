"""Functions in Ask: given as JSON, called by a model, answered by the reader."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from page_service import CITY, RESULT, WEATHER, PageService
from page_steps import answer_of, answers_in, ask, expect

OpenPage = Callable[..., Any]
QUESTION = "How is the weather?"
PLAIN = "Our canteen is a local institution."


def test_a_call_is_shown_as_text_and_its_result_goes_on_with_the_turn(
    open_page: OpenPage, service: PageService
) -> None:
    page = open_page()
    give_functions(page, json.dumps([WEATHER]))
    ask(page, QUESTION)
    answers_in(page)
    answer = answer_of(page, "smollm2")
    expect(answer).to_contain_text("I ask.")
    expect(answer.locator(".call")).to_have_text(f"get_weather {json.dumps({'city': CITY})}")
    answer.get_by_role("button", name="Go on").click()
    expect(answer.get_by_label("Result of get_weather")).to_be_focused()  # it is asked for
    page.keyboard.type(RESULT)
    # What is typed is kept while another part is looked at.
    page.get_by_role("link", name="Cluster").click()
    page.get_by_role("navigation", name="Parts").get_by_role("link", name="Ask").click()
    answer.get_by_role("button", name="Go on").click()
    expect(answer).to_be_focused()
    answers_in(page)
    expect(answer).to_contain_text(PLAIN)
    expect(answer.get_by_role("list", name="Calls before")).to_contain_text(RESULT)
    expect(answer.get_by_role("button", name="Go on")).to_have_count(0)
    assert f"<|tool|> {RESULT}" in service.parts.prompt()

    ask(page, "And tomorrow?")
    answers_in(page)
    prompts = [service.parts.prompt(number) for number in range(-5, 0)]
    # Each way has its own history; one whose call was not answered has none of that turn.
    assert sum(RESULT in prompt for prompt in prompts) == 1
    assert sum(QUESTION in prompt for prompt in prompts) == 1


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        ("[{]", "This is no JSON"),
        ('{"type": "function"}', "A list is needed"),
        ('[{"type": "function", "name": "f"}]', "[0].function is missing"),
        ('[{"type": "function", "function": {"name": "get weather"}}]', "[0].function.name must be"),
        (json.dumps([WEATHER, WEATHER]), "[1].function.name: get_weather is there already"),
        (
            '[{"type": "function", "function": {"name": "f", "parameters": []}}]',
            "[0].function.parameters must be",
        ),
    ],
)
def test_what_is_wrong_with_functions_is_told(functions: Callable[..., Any], typed: str, told: str) -> None:
    assert functions("ask/functions.js", "readFunctions", [typed])["fault"].startswith(told)


def test_nothing_is_asked_with_functions_that_are_wrong(open_page: OpenPage, service: PageService) -> None:
    page = open_page()
    give_functions(page, "[{]")
    ask(page, QUESTION)
    field = page.get_by_label("Functions that may be called")
    expect(field).to_be_focused()
    expect(field).to_have_attribute("aria-invalid", "true")
    expect(page.get_by_text("This is no JSON")).to_be_visible()
    expect(page.get_by_role("article")).to_have_count(0)
    assert not service.parts.engine.prompts
    field.fill("")
    ask(page, QUESTION)
    expect(answers_in(page)).to_have_count(5)


@pytest.mark.parametrize("program", ["curl", "Python"])
def test_a_copied_request_holds_functions_calls_and_results(open_page: OpenPage, program: str) -> None:
    page = open_page(permissions=["clipboard-read", "clipboard-write"])
    give_functions(page, json.dumps([WEATHER]))
    ask(page, QUESTION)
    answers_in(page)
    answer = answer_of(page, "smollm2")
    assert "get_weather" in run_copied(page, answer, program)
    answer.get_by_label("Result of get_weather").fill(RESULT)
    answer.get_by_role("button", name="Go on").click()
    answers_in(page)
    assert PLAIN in run_copied(page, answer, program)


def test_a_way_that_reads_a_vector_store_is_asked_without_functions(functions: Callable[..., Any]) -> None:
    options = {"collection": "vs_1", "functions": json.dumps([WEATHER]), "maxTokens": 9, "temperature": 0}

    def tools(model: str) -> Any:
        return functions("ask/request.js", "requestBody", [QUESTION, model, [], options])["tools"]

    assert tools("smollm2") == [WEATHER]
    assert tools("smollm2+rag") == tools("auto") == [{"type": "file_search", "vector_store_ids": ["vs_1"]}]


def give_functions(page: Any, text: str) -> None:
    page.get_by_text("Models and options").click()
    page.get_by_label("Functions that may be called").fill(text)
    page.get_by_text("Models and options").click()


def run_copied(page: Any, answer: Any, program: str) -> str:
    answer.get_by_role("button", name=f"Copy as {program}").click()
    expect(answer.get_by_text("Copied")).to_be_visible()
    text = page.evaluate("navigator.clipboard.readText()")
    expect(answer.get_by_text("Copied")).to_have_count(0)
    command = ["bash", "-c", text] if program == "curl" else [sys.executable, "-c", text]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return done.stdout
