"""The page by keyboard and by ear: the place is kept, and what changes is said."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from page_service import HANDBOOK, PageService
from page_steps import answer_of, answers_in, ask, ask_a_failing_engine, expect
from test_page import start_job
from test_page_mishaps import make_collection

OpenPage = Callable[..., Any]
QUESTION = "How expensive is a hot lunch?"


def press(button: Any) -> None:
    button.focus()
    button.press("Enter")


# The place


def test_the_place_is_kept_where_a_retry_takes_its_note_away(
    open_page: OpenPage, service: PageService
) -> None:
    page = open_page()
    ask_a_failing_engine(page, service.parts.engine, QUESTION)
    answer = answer_of(page, "smollm2")
    press(answer.get_by_role("button", name="Retry"))
    expect(answer).to_be_focused()


def test_the_place_is_kept_at_a_button_that_is_busy_for_a_moment(open_page: OpenPage) -> None:
    page = open_page("/#/fine-tune")
    start_job(page, "slow")
    press(page.get_by_role("button", name="Pause"))
    expect(page.get_by_role("button", name="Resume")).to_be_focused()


def test_the_place_is_kept_where_a_file_is_chosen_and_taken_away(open_page: OpenPage) -> None:
    page = open_page("/#/fine-tune")
    field = page.get_by_label("Training data")
    field.focus()
    field.set_input_files(HANDBOOK / "train.jsonl")
    expect(page.get_by_text("good, 128 rows")).to_be_visible()
    page.keyboard.press("Tab")
    taking_away = page.get_by_role("button", name="Take train.jsonl away")
    expect(taking_away).to_be_focused()
    taking_away.press("Enter")
    page.keyboard.press("Tab")
    expect(field).to_be_focused()


@pytest.mark.parametrize("service", ["reads"], indirect=True)
def test_the_place_is_kept_in_lists_that_lose_a_line(open_page: OpenPage, tmp_path: Path) -> None:
    files = [tmp_path / "canteen.md", tmp_path / "garden.md"]
    for file in files:
        file.write_text("# Canteen\n\nIt opens at noon.\n")
    page = open_page("/#/documents")
    make_collection(page, "Canteen")
    page.get_by_label("Add files").set_input_files(files)
    table = page.get_by_role("region", name="Files table")
    expect(table.get_by_text("completed")).to_have_count(2)
    press(page.get_by_role("button", name="Delete canteen.md"))
    press(page.get_by_role("dialog").get_by_role("button", name="Remove"))
    expect(table).to_be_focused()
    page.get_by_role("button", name="Filter by an attribute").click()
    press(page.get_by_role("button", name="Remove filter"))
    expect(page.get_by_role("region", name="Search")).to_be_focused()


def test_the_place_is_kept_in_the_composer(open_page: OpenPage, service: PageService) -> None:
    service.parts.engine.step_s = 1.0
    page = open_page()
    page.get_by_text("Models and options").click()
    page.get_by_label("Ask one more").select_option("ft:smollm2:acme:handbook:1")
    press(page.get_by_role("button", name="Add", exact=True))
    expect(page.get_by_role("group", name="One more way")).to_be_focused()
    press(page.get_by_role("button", name=re.compile("^Remove ft:")))
    expect(page.get_by_role("group", name="Ways to answer")).to_be_focused()
    ask(page, QUESTION)
    press(page.get_by_role("button", name="Stop all"))
    expect(page.get_by_role("form", name="Composer")).to_be_focused()
    press(page.get_by_role("button", name="New conversation"))
    expect(page.get_by_label("Question")).to_be_focused()


def test_a_pointer_that_leaves_a_field_moves_no_focus(open_page: OpenPage) -> None:
    page = open_page()
    page.get_by_label("Question").click()
    page.mouse.click(640, 20)  # nothing is there
    page.get_by_role("checkbox", name="auto").evaluate("box => { box.disabled = true }")
    page.evaluate("() => new Promise(requestAnimationFrame)")
    assert page.evaluate("document.activeElement.tagName") == "BODY"


# What is said


def test_each_of_several_answers_that_end_at_once_is_said(open_page: OpenPage, service: PageService) -> None:
    service.parts.engine.step_s = 1.0
    page = open_page()
    ask(page, QUESTION)
    page.get_by_role("button", name="Stop all").click()
    said = page.get_by_role("log").get_by_role("paragraph")
    expect(said).to_have_text([re.compile(": stopped$")] * 5)


def test_what_is_said_twice_is_added_twice_and_does_not_stay(shared_page: Any) -> None:
    shared_page.clock.install()
    shared_page.evaluate("""async () => {
        const { announce } = await import("/page/announce.js");
        announce("Copied");
        announce("Copied");
    }""")
    said = shared_page.get_by_role("log").get_by_role("paragraph")
    expect(said).to_have_text(["Copied", "Copied"])
    shared_page.clock.fast_forward(5001)
    expect(said).to_have_count(0)


def test_a_search_says_how_much_it_found(open_page: OpenPage) -> None:
    page = open_page("/#/documents")
    make_collection(page, "Canteen")
    hits: list[Any] = []
    page.route("**/search", lambda route: route.fulfill(json={"data": hits}))
    page.get_by_label("Search this collection").fill(QUESTION)
    page.get_by_label("Search this collection").press("Enter")
    expect(page.get_by_role("log")).to_have_text("Nothing was found")
    hits.append({"filename": "canteen.md", "score": 0.5, "content": [{"text": "Lunch."}], "attributes": {}})
    page.get_by_label("Search this collection").press("Enter")
    expect(page.get_by_role("log")).to_contain_text("1 hit")


# Keys


def test_a_double_click_on_ask_does_not_stop_what_it_asked(open_page: OpenPage, service: PageService) -> None:
    service.parts.engine.step_s = 0.1
    page = open_page()
    page.get_by_label("Question").fill(QUESTION)
    button = page.get_by_role("button", name="Ask", exact=True)
    expect(button).to_be_enabled()
    button.dblclick()
    answers_in(page)
    expect(answer_of(page, "smollm2")).to_contain_text("size of the plate.")


def test_the_enter_that_ends_a_composition_in_safari_sends_nothing(open_page: OpenPage) -> None:
    page = open_page()
    field = page.get_by_label("Question")
    field.fill("東京")
    expect(page.get_by_role("button", name="Ask", exact=True)).to_be_enabled()
    field.dispatch_event("keydown", {"key": "Enter", "keyCode": 229})
    expect(field).to_have_value("東京")
    expect(page.get_by_role("article")).to_have_count(0)
    field.press("Enter")
    expect(answers_in(page)).to_have_count(5)


def test_the_escape_that_ends_a_composition_stops_no_answer(
    open_page: OpenPage, service: PageService
) -> None:
    service.parts.engine.step_s = 1.0
    page = open_page()
    ask(page, QUESTION)
    field = page.get_by_label("Question")
    field.dispatch_event("keydown", {"key": "Escape", "isComposing": True})
    expect(page.get_by_text("Stopped.", exact=True)).to_have_count(0)
    field.press("Escape")
    expect(page.get_by_text("Stopped.", exact=True)).to_have_count(5)
