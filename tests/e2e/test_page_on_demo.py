"""The page against the running demo: real models, real training, a real death. `make demo` first, then
`pytest -m soak tests/e2e/test_page_on_demo.py`; what it makes stays in that HAMLET_HOME."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import psutil
import pytest
from page_steps import answer_of, answers_in, ask, expect

URL = "http://127.0.0.1:8000"
HANDBOOK = Path(__file__).parents[2] / "examples" / "handbook"
QUESTION = "How expensive is a hot lunch at our canteen?"
PLAIN, TUNED = "smollm2", "handbook"
# Five answers at once, one after another made by two slow cores.
ANSWERS_DEADLINE_MS = 180_000
TRAINING_DEADLINE_S = 900.0
COMPARISON_DEADLINE_S = 300.0
READY_DEADLINE_S = 240.0

pytestmark = [pytest.mark.soak, pytest.mark.timeout(1500)]

OpenPage = Callable[..., Any]


@pytest.fixture
def service() -> SimpleNamespace:
    """The demo's service, in place of the scripted one, and ready."""
    if not _is_ready():
        pytest.skip(f"needs the running demo at {URL}: make demo")
    return SimpleNamespace(url=URL)


def _is_ready() -> bool:
    try:
        return httpx.get(f"{URL}/readyz", timeout=10).status_code == 200
    except httpx.HTTPError:
        return False


def leave_out(page: Any, *models: str) -> None:
    for model in models:
        page.get_by_label(model, exact=True).uncheck()


def test_one_question_is_answered_in_every_way_and_its_source_opened(open_page: OpenPage) -> None:
    page = open_page()
    ask(page, QUESTION)
    expect(answers_in(page, ANSWERS_DEADLINE_MS)).to_have_count(5)
    routes = {PLAIN: "plain", TUNED: "tuned", f"{PLAIN}+rag": "rag", f"{TUNED}+rag": "tuned+rag"}
    for model, route in routes.items():
        expect(answer_of(page, model).locator(".badge")).to_have_text(route)
    expect(answer_of(page, "auto").locator(".badge")).to_have_text("auto → rag")
    expect(answer_of(page, f"{PLAIN}+rag")).to_contain_text("4.70")
    answer_of(page, f"{PLAIN}+rag").get_by_role("button", name=re.compile("^Source 1")).click()
    expect(page.get_by_role("dialog")).to_contain_text("4.70 euros")


def test_a_file_is_uploaded_found_and_cited(open_page: OpenPage, tmp_path: Path) -> None:
    file = tmp_path / "observatory.md"
    file.write_text(
        "# Observatory\n\nThe caretaker of the observatory is Ida Lund. Visitors bring a red lamp.\n"
    )
    page = open_page("/#/documents")
    page.get_by_role("button", name="New collection").click()
    page.get_by_label("Name").fill("Observatory")
    page.get_by_role("button", name="Make it").click()
    page.get_by_label("Add files").set_input_files([file])
    uploads = page.get_by_role("list", name="Uploads").get_by_role("listitem")
    expect(uploads.first).to_contain_text("done", timeout=1000 * READY_DEADLINE_S)
    page.get_by_label("Search this collection").fill("Who takes care of it?")
    page.get_by_role("button", name="Search", exact=True).click()
    expect(page.locator(".hits > li").first).to_contain_text("Ida Lund")
    page.get_by_role("button", name="Ask these documents").click()
    ask(page, "What is the name of the caretaker of the observatory?")
    answers_in(page, ANSWERS_DEADLINE_MS)
    expect(answer_of(page, f"{PLAIN}+rag")).to_contain_text("Ida Lund")
    answer_of(page, f"{PLAIN}+rag").get_by_role("button", name="Source 1: observatory.md").click()
    expect(page.get_by_role("dialog")).to_contain_text("The caretaker of the observatory is Ida Lund.")


def test_a_faulty_file_is_shown_at_its_line_and_a_small_one_is_trained_and_answers(
    open_page: OpenPage, tmp_path: Path
) -> None:
    rows = (HANDBOOK / "train.jsonl").read_text().splitlines()[:16]
    faulty, tiny = tmp_path / "faulty.jsonl", tmp_path / "tiny.jsonl"
    faulty.write_text("\n".join([*rows[:11], rows[11].replace("]}", "]]}"), *rows[12:]]))
    tiny.write_text("\n".join(rows))
    page = open_page("/#/fine-tune")
    page.get_by_label("Training data").set_input_files(faulty)
    fault = page.get_by_role("region", name="faults of faulty.jsonl").get_by_role("listitem").first
    expect(fault.locator(".line-number")).to_have_text("12", timeout=60_000)
    page.get_by_label("Training data").set_input_files(tiny)
    expect(page.get_by_text("good, 16 rows")).to_be_visible(timeout=60_000)
    page.get_by_label("Epochs").fill("2")
    page.get_by_label("Suffix").fill("tiny")
    page.get_by_role("button", name="Create").click()
    made = page.get_by_text("New fine-tuned model created")
    expect(made).to_be_visible(timeout=1000 * TRAINING_DEADLINE_S)
    expect(page.get_by_role("img", name=re.compile("Loss by step"))).to_be_visible()
    page.get_by_role("link", name="Try it in Ask").click()
    leave_out(page, PLAIN, f"{PLAIN}+rag", "auto")
    ask(page, json.loads(rows[0])["messages"][-2]["content"])
    answers = answers_in(page, ANSWERS_DEADLINE_MS)
    expect(answers.first.locator(".badge")).to_have_text("tuned")
    expect(page.get_by_role("alert")).to_have_count(0)


def test_a_comparison_is_made_and_its_report_read(open_page: OpenPage, tmp_path: Path) -> None:
    questions = tmp_path / "questions.jsonl"
    questions.write_text("\n".join((HANDBOOK / "test.jsonl").read_text().splitlines()[:6]))
    page = open_page("/#/verdict")
    page.get_by_label("Questions with their answers").set_input_files(questions)
    page.get_by_label("Name").fill("Six questions")
    page.get_by_role("button", name="Compare").click()
    link = page.get_by_role("region", name="Comparison").get_by_role("link", name="Read the report")
    expect(link).to_be_visible(timeout=1000 * COMPARISON_DEADLINE_S)
    with page.context.expect_page() as opened:
        link.click()
    expect(opened.value.get_by_role("heading", name="Six questions")).to_be_visible()


def test_a_replica_that_is_killed_in_a_stream_is_told_and_the_question_can_be_asked_again(
    open_page: OpenPage,
) -> None:
    page = open_page()
    leave_out(page, f"{PLAIN}+rag", TUNED, f"{TUNED}+rag", "auto")
    ask(page, "Tell me a long story about a lighthouse.")
    expect(answer_of(page, PLAIN)).to_contain_text(re.compile(r"\w+ \w+ \w+"))  # it streams
    [replica] = [
        process
        for process in psutil.process_iter()
        if "ServeReplica:hamlet:generator" in " ".join(process.cmdline())
    ]
    replica.kill()
    alert = answer_of(page, PLAIN).get_by_role("alert")
    expect(alert).to_be_visible(timeout=60_000)
    deadline = time.monotonic() + READY_DEADLINE_S
    while not _is_ready():
        assert time.monotonic() < deadline, "the generator did not come back"
        time.sleep(1)
    alert.get_by_role("button", name="Retry").click()
    answers_in(page, ANSWERS_DEADLINE_MS)
    expect(answer_of(page, PLAIN)).to_contain_text("tokens")
    expect(answer_of(page, PLAIN).get_by_role("alert")).to_have_count(0)


def test_the_cluster_is_shown_with_its_real_parts(open_page: OpenPage) -> None:
    page = open_page("/#/cluster")
    expect(page.get_by_role("region", name="Health").get_by_text("ready", exact=True)).to_have_count(4)
    expect(page.get_by_role("table").first).to_contain_text("running since")
