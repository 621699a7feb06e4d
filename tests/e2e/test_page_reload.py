"""The conversation in Ask over a reload of its tab."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from page_service import CITY, MARKUP, RESULT, WEATHER, PageService
from page_steps import answer_of, answers_in, ask, ask_a_failing_engine, expect, told_failure
from test_page_calls import give_functions
from test_page_mishaps import enter_key

OpenPage = Callable[..., Any]
LUNCH = "How expensive is a hot lunch?"
QUESTION = f"{LUNCH} {MARKUP}"
KEPT = "sessionStorage['hamlet.turns']"


def test_a_conversation_outlives_a_reload_and_goes_on(open_page: OpenPage, service: PageService) -> None:
    page = open_page()
    ask(page, QUESTION)
    answers_in(page)
    shown = page.locator(".turns").inner_text()
    page.reload()
    expect(page.get_by_role("heading", name=QUESTION)).to_be_visible()
    assert page.locator(".turns").inner_text() == shown
    assert page.locator(".turns img, .turns script").count() == 0
    expect(answer_of(page, "auto").locator(".badge")).to_have_text("auto → rag")
    expect(answer_of(page, "auto").get_by_role("img", name=re.compile("Time by stage"))).to_be_visible()
    answer_of(page, "smollm2+rag").get_by_role("button", name=re.compile("^Source 1")).click()
    expect(page.get_by_role("dialog")).to_contain_text(MARKUP)
    page.keyboard.press("Escape")

    ask(page, "And a salad?")
    answers_in(page)
    assert all(QUESTION in service.parts.prompt(number) for number in range(-5, 0))
    page.reload()
    expect(page.locator(".turns > li")).to_have_count(2)


def test_a_stream_that_a_reload_ends_is_shown_as_stopped_with_what_it_had(
    open_page: OpenPage, service: PageService
) -> None:
    service.parts.engine.step_s = 0.3
    page = open_page()
    ask(page, LUNCH)
    expect(answer_of(page, "smollm2")).to_contain_text("Our canteen")
    page.reload()
    answer = answer_of(page, "smollm2")
    expect(answer).to_contain_text("Our canteen")
    expect(answer).to_contain_text("Stopped.")
    expect(page.locator("article[aria-busy=true]")).to_have_count(0)
    service.parts.engine.step_s = 0.0
    answer.get_by_role("button", name="Ask smollm2 again", exact=True).click()
    expect(answer).to_contain_text("size of the plate.")
    expect(answer).not_to_contain_text("Stopped.")


def test_a_failure_is_told_after_a_reload_as_before_it(open_page: OpenPage, service: PageService) -> None:
    page = open_page()
    ask_a_failing_engine(page, service.parts.engine, QUESTION)
    page.reload()
    told_failure(page, "smollm2").get_by_role("button", name="Retry").click()
    expect(answer_of(page, "smollm2")).to_contain_text("size of the plate.")


def test_calls_and_the_results_being_typed_outlive_a_reload(open_page: OpenPage) -> None:
    page = open_page()
    give_functions(page, json.dumps([WEATHER]))
    ask(page, "How is the weather?")
    answers_in(page)
    answer = answer_of(page, "smollm2")
    answer.get_by_label("Result of get_weather").fill(RESULT)
    page.reload()
    expect(answer.locator(".call")).to_have_text(f"get_weather {json.dumps({'city': CITY})}")
    expect(answer.get_by_label("Result of get_weather")).to_have_value(RESULT)
    answer.get_by_role("button", name="Go on").click()
    expect(answer.get_by_role("list", name="Calls before")).to_contain_text(RESULT)


def test_a_conversation_that_was_ended_does_not_come_back(open_page: OpenPage) -> None:
    page = open_page()
    ask(page, QUESTION)
    answers_in(page)
    assert page.evaluate(KEPT)
    page.get_by_role("button", name="New conversation").click()
    assert page.evaluate("sessionStorage.length") == 0
    page.reload()
    expect(page.get_by_text("One question, every way to answer it")).to_be_visible()


def test_what_is_kept_is_for_this_tab_and_key_and_holds_no_key(open_page: OpenPage) -> None:
    page = open_page()
    page.route("**/v1/chat/completions", lambda route: route.abort())
    enter_key(page, "hk-one")
    ask(page, QUESTION)
    answers_in(page)
    assert "hk-one" not in page.evaluate(KEPT)
    assert LUNCH not in page.evaluate("JSON.stringify(localStorage)")
    enter_key(page, "hk-two")
    expect(page.get_by_role("dialog")).to_have_count(0)
    assert page.evaluate(KEPT) is None


@pytest.mark.parametrize(
    "kept",
    [
        "{",
        "5",
        '{"turns": []}',
        '[null, 1, {"question": "Why?"}, {"question": "Why?", "answers": [null]}]',
        '[{"question": "Why?", "answers": [{"model": "smollm2", "kind": "plain", "status": "done", "text": "So."}]}]',
    ],
)
def test_kept_turns_of_another_form_are_passed_over(open_page: OpenPage, kept: str) -> None:
    page = open_page()
    page.evaluate(
        "kept => addEventListener('pagehide', () => { sessionStorage['hamlet.turns'] = kept })", kept
    )
    page.reload()
    expect(page.get_by_text("One question, every way to answer it")).to_be_visible()
    ask(page, QUESTION)
    expect(answers_in(page)).to_have_count(5)


def test_the_newest_turns_that_fit_are_kept(shared_page: Any) -> None:
    kept = shared_page.evaluate("""async () => {
        const { keepTurns, keptTurns } = await import("/page/ask/kept.js");
        const turns = [1, 2, 3].map((id) => ({ id, question: `Question ${id}`, answers: [] }));
        const size = JSON.stringify(turns).length;
        const limits = [size, size - 1, 60, 9];
        return limits.map((most) => (keepTurns(turns, most), keptTurns().map((turn) => turn.question.at(-1)).join("")));
    }""")
    assert kept == ["123", "23", "3", ""]
