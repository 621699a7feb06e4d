"""The page when something goes another way: it is left, cut off, kept waiting, or told nonsense."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from page_service import HANDBOOK, PageService
from page_steps import answer_of, answers_in, ask, expect

from cluster.vector_store_records import Chunking, NewFile
from cluster.vector_stores import VectorStores

OpenPage = Callable[..., Any]
QUESTION = "How expensive is a hot lunch?"
FILES = [HANDBOOK / "train.jsonl", HANDBOOK / "test.jsonl"]
NARROW = 375


# Ask


def test_a_question_that_is_being_written_outlives_a_look_at_another_part(open_page: OpenPage) -> None:
    page = open_page()
    page.get_by_label("Question").fill(QUESTION)
    go_to(page, "Cluster")
    go_to(page, "Ask")
    expect(page.get_by_label("Question")).to_have_value(QUESTION)


def test_an_option_that_cannot_be_sent_is_shown_though_it_was_folded_away(open_page: OpenPage) -> None:
    page = open_page()
    page.get_by_text("Models and options").click()
    page.get_by_label("Answer length in tokens").fill("5000")
    page.get_by_text("Models and options").click()
    ask(page, QUESTION)
    expect(page.get_by_label("Answer length in tokens")).to_be_focused()
    expect(page.get_by_role("article")).to_have_count(0)


def test_a_tuned_model_that_is_gone_can_be_left(open_page: OpenPage) -> None:
    page = open_page()
    page.evaluate("localStorage.setItem('hamlet.ask', JSON.stringify({ tuned: 'gone' }))")
    page.reload()
    page.get_by_text("Models and options").click()
    expect(page.get_by_label("Tuned model")).to_have_value("gone")
    page.get_by_label("Tuned model").select_option("")
    ask(page, QUESTION)
    answers_in(page)
    expect(answer_of(page, "handbook")).to_contain_text("4.70 euros")


def test_a_model_to_try_is_asked_and_chosen_once(open_page: OpenPage) -> None:
    page = open_page()
    page.get_by_label("handbook", exact=True).uncheck()
    page.goto(page.url.split("#")[0] + "#/ask?model=handbook")
    expect(page.get_by_label("handbook", exact=True)).to_be_checked()
    page.get_by_text("Models and options").click()
    page.get_by_label("Tuned model").select_option("ft:smollm2:acme:handbook:1")
    page.reload()
    expect(page.get_by_label("ft:smollm2:acme:handbook:1", exact=True)).to_be_visible()
    expect(page.get_by_label("handbook", exact=True)).to_have_count(0)


def test_one_more_model_is_added_by_a_button_not_by_passing_it(open_page: OpenPage) -> None:
    page = open_page()
    page.get_by_text("Models and options").click()
    page.get_by_label("Ask one more").select_option("ft:smollm2:acme:handbook:1+rag")
    added = page.get_by_label("ft:smollm2:acme:handbook:1+rag", exact=True)
    expect(added).to_have_count(0)
    page.get_by_role("button", name="Add", exact=True).click()
    expect(added).to_be_checked()


def test_a_way_that_is_added_again_is_asked(open_page: OpenPage) -> None:
    page = open_page()
    page.get_by_text("Models and options").click()
    way = page.get_by_label("ft:smollm2:acme:handbook:1", exact=True)
    for _ in range(2):
        page.get_by_label("Ask one more").select_option("ft:smollm2:acme:handbook:1")
        page.get_by_role("button", name="Add", exact=True).click()
        expect(way).to_be_checked()
        way.uncheck()
        page.get_by_role("button", name="Remove ft:smollm2:acme:handbook:1").click()


def test_a_passage_is_looked_up_where_its_answer_was(open_page: OpenPage) -> None:
    page = open_page("/#/documents")
    store_id = make_collection(page, "Canteen")
    page.get_by_role("button", name="Ask these documents").click()
    expect(page.get_by_text("Models and options · Canteen")).to_be_visible()
    ask(page, QUESTION)
    answers_in(page)
    page.get_by_text("Models and options").click()
    page.get_by_label("Collection").fill("other")
    with page.expect_request(f"**/v1/vector_stores/{store_id}/files/**"):
        answer_of(page, "smollm2+rag").get_by_role("button", name=re.compile("^Source 1")).click()
    expect(page.get_by_role("dialog")).to_contain_text("the passage as it was read")


def test_a_generator_that_is_started_by_the_question_is_waited_for(open_page: OpenPage) -> None:
    page = open_page()
    page.clock.install()
    page.route("**/v1/chat/completions", lambda route: None)
    ask(page, QUESTION)
    expect(page.get_by_role("article").first).to_contain_text("Thinking")
    page.clock.fast_forward(125_000)  # the service waits 120 s for it
    expect(page.get_by_role("alert")).to_have_count(0)
    page.clock.fast_forward(30_000)
    expect(answer_of(page, "smollm2").get_by_role("alert")).to_contain_text("No answer within 150 s.")


# Files


def test_an_upload_is_taken_away_and_the_next_is_sent(open_page: OpenPage) -> None:
    page = open_page("/#/documents")
    make_collection(page, "Canteen")
    held = hold(page, "**/v1/files")
    page.get_by_label("Add files").set_input_files(FILES)
    wait_for(page, held, 1)
    page.get_by_role("button", name="Take train.jsonl away").click()
    wait_for(page, held, 2)
    wait_until_cancelled(page, held[0].request)
    assert b"test.jsonl" in (held[1].request.post_data_buffer or b"")
    expect(page.get_by_role("list", name="Uploads")).not_to_contain_text("train.jsonl")


def test_a_collection_that_is_deleted_takes_its_uploads_with_it(open_page: OpenPage) -> None:
    page = open_page("/#/documents")
    store_id = make_collection(page, "Canteen")
    page.get_by_role("button", name="Ask these documents").click()
    page.go_back()
    held = hold(page, "**/v1/files")
    page.get_by_label("Add files").set_input_files(FILES)
    wait_for(page, held, 1)
    page.get_by_role("button", name="Delete this collection").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    expect(page.get_by_text("No collections yet")).to_be_visible()
    wait_until_cancelled(page, held[0].request)
    assert len(held) == 1
    assert page.evaluate("JSON.parse(localStorage['hamlet.ask']).collection") == ""
    page.goto(page.url.split("#")[0] + f"#/documents/{store_id}")
    expect(page.get_by_text(f"There is no collection {store_id}")).to_be_visible()


@pytest.mark.parametrize("service", ["reads"], indirect=True)
def test_a_service_that_is_away_for_a_moment_does_not_fail_a_file(
    open_page: OpenPage, tmp_path: Path
) -> None:
    file = tmp_path / "canteen.md"
    file.write_text("# Canteen\n\nIt opens at noon.\n")
    page = open_page("/#/documents")
    store_id = make_collection(page, "Canteen")
    page.route(f"**/v1/vector_stores/{store_id}/files/*", lambda route: route.abort(), times=1)
    page.get_by_label("Add files").set_input_files(file)
    uploads = page.get_by_role("list", name="Uploads")
    expect(uploads).to_contain_text("done")
    expect(uploads.get_by_role("alert")).to_have_count(0)


def test_a_table_of_files_that_is_not_whole_says_so(open_page: OpenPage, service: PageService) -> None:
    assert service.parts.platform is not None
    files = [NewFile(f"file-{number}", f"{number}.md", Chunking(100, 0), {}) for number in range(501)]
    store = VectorStores(service.parts.platform.engine).create("default", "Letters", files=files)
    page = open_page(f"/#/documents/{store.id}")
    expect(page.get_by_text("The newest 500 of 501 files.")).to_be_visible()
    expect(page.get_by_role("row")).to_have_count(501)


def test_a_file_is_sent_while_the_one_before_it_is_indexed(open_page: OpenPage) -> None:
    page = open_page("/#/documents")
    make_collection(page, "Canteen")
    page.get_by_label("Add files").set_input_files(FILES)  # which nobody reads
    uploads = page.get_by_role("list", name="Uploads").get_by_role("listitem")
    for number in range(len(FILES)):
        expect(uploads.nth(number)).to_contain_text("is indexed")


def test_leaving_the_page_while_a_file_is_on_its_way_is_asked_about(open_page: OpenPage) -> None:
    page = open_page("/#/documents")
    make_collection(page, "Canteen")
    held = hold(page, "**/v1/files")
    page.get_by_label("Add files").set_input_files(FILES[0])
    wait_for(page, held, 1)
    with page.expect_event("dialog") as asked:
        page.close(run_before_unload=True)
    assert asked.value.type == "beforeunload"
    with page.expect_event("close"):
        asked.value.accept()


def test_an_upload_that_stands_still_ends(open_page: OpenPage) -> None:
    page = open_page("/#/fine-tune")
    page.clock.install()
    hold(page, "**/v1/files")
    page.get_by_label("Training data").set_input_files(FILES[0])
    expect(page.get_by_role("button", name="Take train.jsonl away")).to_be_visible()
    page.clock.fast_forward(301_000)
    expect(page.get_by_role("alert")).to_contain_text("Nothing was heard of the upload for 5 min.")


@pytest.mark.parametrize(
    ("part", "label"), [("fine-tune", "Training data"), ("verdict", "Questions with their answers")]
)
def test_a_file_of_a_form_that_was_left_is_not_sent_on(open_page: OpenPage, part: str, label: str) -> None:
    page = open_page(f"/#/{part}")
    held = hold(page, "**/v1/files")
    page.get_by_label(label).set_input_files(FILES[0])
    wait_for(page, held, 1)
    go_to(page, "Cluster")
    expect(page.get_by_role("heading", level=1, name="Cluster")).to_be_visible()
    wait_until_cancelled(page, held[0].request)


# The frame


def test_a_dialog_gives_the_focus_back_to_what_opened_it(open_page: OpenPage) -> None:
    page = open_page("/#/documents")
    make_collection(page, "Canteen")
    page.get_by_role("button", name="Delete this collection").click()
    page.get_by_role("button", name="Keep").click()
    expect(page.get_by_role("button", name="Delete this collection")).to_be_focused()
    page.get_by_role("button", name="API key").click()
    page.get_by_role("button", name="Use").click()
    expect(page.get_by_role("button", name="API key")).to_be_focused()


def test_a_selection_that_ends_outside_a_dialog_does_not_close_it(open_page: OpenPage) -> None:
    page = open_page("/#/documents")
    page.get_by_role("button", name="New collection").click()
    field = page.get_by_label("Name")
    field.fill("Canteen")
    box = field.bounding_box()
    page.mouse.move(box["x"] + 9, box["y"] + 9)
    page.mouse.down()
    page.mouse.move(4, 4)
    page.mouse.up()
    expect(field).to_have_value("Canteen")
    page.mouse.click(4, 4)
    expect(page.get_by_role("dialog")).to_have_count(0)


def test_a_dialog_stays_as_it_is_while_what_lies_beneath_it_is_loaded(open_page: OpenPage) -> None:
    page = open_page()
    held = hold(page, "**/v1/vector_stores?*")
    go_to(page, "Documents")
    wait_for(page, held, 1)
    page.get_by_role("button", name="New collection").click()
    field = page.get_by_label("Name")
    field.fill("Canteen")
    held[0].continue_()
    expect(page.get_by_text("No collections yet")).to_be_attached()
    assert page.evaluate("document.querySelector('dialog').matches(':modal')")
    expect(field).to_be_focused()


def test_a_key_that_no_header_can_carry_is_not_taken(open_page: OpenPage) -> None:
    page = open_page()
    enter_key(page, "schlüssel")
    expect(page.get_by_label("Key", exact=True)).to_be_focused()
    assert page.evaluate("sessionStorage.length") == 0


def test_what_one_key_was_shown_is_gone_with_the_next(open_page: OpenPage) -> None:
    page = open_page("/#/documents")
    make_collection(page, "Salaries")
    hold(page, "**/v1/vector_stores**")
    enter_key(page, "hk-other")
    expect(page.get_by_text("Salaries")).to_have_count(0)
    expect(page.get_by_text("Loading collections")).to_be_visible()


def test_a_conversation_outlives_the_first_key_and_no_other(open_page: OpenPage) -> None:
    page = open_page()
    page.route("**/v1/chat/completions", lambda route: route.abort())
    ask(page, QUESTION)
    answers_in(page)
    enter_key(page, "hk-one")
    expect(page.get_by_role("dialog")).to_have_count(0)
    expect(page.get_by_role("heading", name=QUESTION)).to_be_visible()
    enter_key(page, "hk-two")
    expect(page.get_by_role("heading", name=QUESTION)).to_have_count(0)


def test_what_one_reader_sends_and_fills_in_does_not_go_on_with_the_next(open_page: OpenPage) -> None:
    page = open_page("/#/fine-tune")
    enter_key(page, "hk-one")
    page.get_by_label("Training data").set_input_files(FILES[0])
    expect(page.get_by_text("good, 128 rows")).to_be_visible()
    enter_key(page, "hk-two")
    expect(page.get_by_text("train.jsonl")).to_have_count(0)
    go_to(page, "Documents")
    make_collection(page, "Canteen")
    held = hold(page, "**/v1/files")
    page.get_by_label("Add files").set_input_files(FILES)
    wait_for(page, held, 1)
    enter_key(page, "hk-three")
    wait_until_cancelled(page, held[0].request)
    expect(page.get_by_role("button", name="Ask these documents")).to_be_visible()
    expect(page.get_by_role("list", name="Uploads")).to_have_count(0)
    assert len(held) == 1


def test_a_file_that_is_dropped_beside_its_place_is_not_opened_and_the_place_is_shown(
    open_page: OpenPage, tmp_path: Path
) -> None:
    file = tmp_path / "rows.html"
    file.write_text("elsewhere")
    page = open_page("/#/fine-tune")
    place = page.locator(".dropzone", has_text="Training data")
    expect(place).to_be_visible()
    page.evaluate(
        "addEventListener('dragover', (it) => { saw = [it.defaultPrevented, it.dataTransfer.dropEffect]; })"
    )
    mouse = page.context.new_cdp_session(page)
    dragged = {"x": 640, "y": 10, "data": {"items": [], "files": [str(file)], "dragOperationsMask": 1}}
    for step in ("dragEnter", "dragOver"):
        mouse.send("Input.dispatchDragEvent", {"type": step, **dragged})
    expect(place).to_have_class(re.compile("wanted"))
    assert page.evaluate("saw") == [True, "none"]
    mouse.send("Input.dispatchDragEvent", {"type": "drop", **dragged})
    expect(place).not_to_have_class(re.compile("wanted"))


def test_an_address_that_was_cut_shows_the_part_all_the_same(open_page: OpenPage) -> None:
    page = open_page("/#/documents/%E0%A4%A")
    expect(page.get_by_role("heading", level=1, name="Documents")).to_be_visible()


@pytest.mark.parametrize(
    ("part", "path"), [("fine-tune", "v1/fine_tuning/jobs"), ("verdict", "v1/evaluations")]
)
def test_an_address_leads_to_no_other_path_of_the_api(open_page: OpenPage, part: str, path: str) -> None:
    page = open_page("/#/cluster")
    with page.expect_request(f"**/{path}/*"):
        page.goto(page.url.split("#")[0] + f"#/{part}/..%2F..%2Fmodels")
    expect(page.get_by_role("main").get_by_role("alert")).to_be_visible()


def test_what_waits_for_memory_says_how_much_in_words(open_page: OpenPage) -> None:
    page = open_page("/#/ask")

    def waiting(route: Any) -> None:
        queue = [{"count": 2, "resources": {"CPU": 1, "memory": 2**32}}]
        route.fulfill(json=route.fetch().json() | {"queue": queue})

    page.route("**/v1/cluster", waiting)
    go_to(page, "Cluster")
    expect(page.get_by_text("Waiting for room: 2 × 1 CPU + 4.0 GiB memory")).to_be_visible()


def test_a_script_that_is_lost_on_the_way_leaves_no_blank_page(open_page: OpenPage) -> None:
    page = open_page()
    page.route("**/page/ask/ask.js", lambda route: route.abort("internetdisconnected"))
    page.reload()
    expect(page.get_by_text("The page is not there yet")).to_be_visible()
    page.unroute("**/page/ask/ask.js")
    page.get_by_role("link", name="load it again").click()
    expect(page.get_by_label("Question")).to_be_visible()
    expect(page.get_by_text("The page is not there yet")).to_have_count(0)


def test_a_part_that_cannot_be_drawn_says_so_and_leaves_the_others(open_page: OpenPage) -> None:
    page = open_page()
    page.route("**/v1/cluster", lambda route: route.fulfill(json={"resources": {}}))
    go_to(page, "Cluster")
    expect(page.get_by_role("alert")).to_contain_text("This cannot be shown")
    go_to(page, "Ask")
    expect(page.get_by_role("heading", level=1, name="Ask")).to_be_visible()
    go_to(page, "Cluster")
    expect(page.get_by_role("alert")).to_contain_text("This cannot be shown")
    page.unroute("**/v1/cluster")
    page.get_by_role("button", name="Retry").click()
    expect(page.get_by_role("article", name=re.compile("^Node "))).to_be_visible()


def test_the_focus_follows_into_what_a_narrow_screen_shows(open_page: OpenPage, service: PageService) -> None:
    page = open_page("/#/documents", width=NARROW)
    make_collection(page, "Canteen")
    page.get_by_role("link", name="All collections").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("main")).to_be_focused()
    page.get_by_role("link", name=re.compile("^Canteen")).focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Ask these documents")).to_be_visible()
    expect(page.get_by_role("main")).to_be_focused()


def test_a_phone_shows_every_way_that_is_compared(open_page: OpenPage) -> None:
    page = open_page("/#/verdict", width=NARROW)
    expect(page.get_by_label("handbook+rag", exact=True)).to_be_visible()
    assert page.locator(".ways").evaluate("ways => ways.scrollWidth <= ways.clientWidth")


def test_an_answer_that_breaks_off_is_told_like_one_that_never_came(shared_page: Any) -> None:
    told = shared_page.evaluate("""async () => {
        const { call } = await import("/page/api.js");
        const broken = new ReadableStream({ start: (body) => body.error(new TypeError("network error")) });
        const whole = window.fetch;
        window.fetch = async () => new Response(broken);
        try {
            return await call("v1/models").catch((error) => [error.name, error.message, error.code]);
        } finally {
            window.fetch = whole;
        }
    }""")
    assert told == ["Error", "The service did not answer.", "unreachable"]


def test_a_stream_of_something_else_is_told_and_not_quoted(shared_page: Any) -> None:
    told = shared_page.evaluate("""async () => {
        const { stream } = await import("/page/api.js");
        const whole = window.fetch;
        window.fetch = async () => new Response("data: <html>\\n\\n");
        try {
            const answer = stream("v1/chat/completions", {}, new AbortController().signal);
            return await answer.next().catch((error) => [error.message, error.remedy]);
        } finally {
            window.fetch = whole;
        }
    }""")
    assert told == ["The answer is no JSON.", ""]


def go_to(page: Any, part: str) -> None:
    page.get_by_role("navigation", name="Parts").get_by_role("link", name=part).click()


def enter_key(page: Any, key: str) -> None:
    page.get_by_role("button", name="API key").click()
    page.get_by_label("Key", exact=True).fill(key)
    page.get_by_role("button", name="Use", exact=True).click()


def make_collection(page: Any, name: str) -> str:
    """The new collection's id; its page is shown."""
    page.get_by_role("button", name="New collection").click()
    page.get_by_label("Name").fill(name)
    page.get_by_role("button", name="Make it").click()
    expect(page.get_by_role("button", name="Ask these documents")).to_be_visible()
    return str(page.url.rsplit("/", 1)[1])


def hold(page: Any, path: str) -> list[Any]:
    """The requests to a path, which get no answer."""
    held: list[Any] = []
    page.route(path, lambda route: held.append(route))
    return held


def wait_for(page: Any, held: list[Any], number: int) -> None:
    while len(held) < number:
        page.wait_for_timeout(10)


def wait_until_cancelled(page: Any, request: Any) -> None:
    """The browser tells of it after what the page shows: it is waited for, within the time of the test."""
    while not request.failure:
        page.wait_for_timeout(20)
