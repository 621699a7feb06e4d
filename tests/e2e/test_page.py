"""The page in real Chromium, over real HTTP: each part is walked as a reader would."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openai
import pytest
from page_service import HANDBOOK, MARKUP, PASSAGE, REPORT, WEATHER, PageService
from page_steps import answer_of, answers_in, ask, ask_a_failing_engine, expect, told_failure
from PIL import Image

from cluster.registry import Registry
from serving.scripted_parts import ScriptedRetriever

OpenPage = Callable[..., Any]
PARTS = ("ask", "documents", "fine-tune", "verdict", "cluster")
IMAGES = Path(__file__).parents[2] / "docs" / "images"
QUESTION = "How expensive is a hot lunch?"
MAX_WEIGHT_BYTES = 300_000
MAX_FIRST_PAINT_MS = 1000


# Ask


def test_one_question_is_answered_in_every_way_side_by_side(open_page: OpenPage) -> None:
    page = open_page()
    ask(page, QUESTION)
    expect(answers_in(page)).to_have_count(5)
    for model, route in {
        "smollm2": "plain",
        "smollm2+rag": "rag",
        "handbook": "tuned",
        "handbook+rag": "tuned+rag",
        "auto": "auto → rag",
    }.items():
        answer = answer_of(page, model)
        expect(answer.locator(".badge")).to_have_text(route)
        expect(answer).to_contain_text("tokens")
        expect(answer.get_by_role("img", name=re.compile("Time by stage: .*generate"))).to_be_visible()
    expect(answer_of(page, "auto")).to_contain_text("best passage scores 0.71")


def test_a_citation_opens_the_passage_with_the_shared_words_marked(open_page: OpenPage) -> None:
    page = open_page()
    ask(page, QUESTION)
    answers_in(page)
    answer_of(page, "smollm2+rag").get_by_role("button", name=re.compile("^Source 1")).click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text(MARKUP)  # shown as it is
    marked = dialog.locator("mark").all_inner_texts()
    assert {"hot", "lunch", "costs", "4.70", "euros"} <= set(marked)
    assert "salad" not in marked
    page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)


def test_markup_in_an_answer_is_shown_and_not_run(open_page: OpenPage) -> None:
    page = open_page()
    ask(page, MARKUP)
    answers_in(page)
    expect(answer_of(page, "smollm2")).to_contain_text(MARKUP)
    expect(page.get_by_role("heading", name=MARKUP)).to_be_visible()
    assert page.locator(".turns img, .turns script").count() == 0


def test_a_follow_up_carries_each_ways_own_history(open_page: OpenPage, service: PageService) -> None:
    page = open_page()
    page.get_by_label("auto", exact=True).uncheck()
    ask(page, QUESTION)
    answers_in(page)
    ask(page, "And a salad?")
    answers_in(page)
    prompts = [service.parts.prompt(number) for number in range(-4, 0)]
    assert all(QUESTION in prompt for prompt in prompts)
    assert sum("in the canteen costs 4.70 euros." in prompt for prompt in prompts) == 1


def test_a_conversation_keeps_the_route_it_began_with(open_page: OpenPage, service: PageService) -> None:
    page = open_page()
    ask(page, QUESTION)
    answers_in(page)
    page.get_by_text("Models and options").click()
    page.get_by_label("Keep the route of auto for this conversation").check()
    expect(page.get_by_text("Models and options · route kept")).to_be_visible()
    service.parts.retriever = ScriptedRetriever()  # which the router would answer without documents
    ask(page, "And what is art?")
    answers_in(page)
    expect(answer_of(page, "auto").locator(".badge")).to_have_text("auto → rag, kept")
    page.get_by_role("button", name="New conversation").click()
    ask(page, "And what is art?")
    answers_in(page)
    expect(answer_of(page, "auto").locator(".badge")).not_to_contain_text("kept")


def test_a_question_waits_until_the_models_are_known(open_page: OpenPage) -> None:
    page = open_page("/#/cluster")
    held: list[Any] = []
    page.route("**/v1/models", lambda route: held.append(route))
    page.get_by_role("navigation", name="Parts").get_by_role("link", name="Ask").click()
    page.get_by_label("Question").fill(QUESTION)
    page.get_by_label("Question").press("Enter")
    expect(page.get_by_role("button", name="Ask", exact=True)).to_be_disabled()
    expect(page.get_by_label("Question")).to_have_value(QUESTION)
    for route in held:
        route.continue_()
    page.unroute("**/v1/models")
    ask(page, QUESTION)
    expect(answers_in(page)).to_have_count(5)


def test_an_answer_is_stopped_and_asked_again(open_page: OpenPage, service: PageService) -> None:
    service.parts.engine.step_s = 1.0
    page = open_page()
    ask(page, QUESTION)
    page.get_by_role("button", name="Stop smollm2", exact=True).click()
    expect(answer_of(page, "smollm2")).to_contain_text("Stopped.")
    page.get_by_role("button", name="Stop all").click()
    service.parts.engine.step_s = 0.0
    page.get_by_role("button", name="Ask smollm2 again", exact=True).click()
    expect(answer_of(page, "smollm2")).to_contain_text("size of the plate.")


def test_a_replica_that_dies_in_a_stream_is_told_and_the_answer_can_be_asked_again(
    open_page: OpenPage, service: PageService
) -> None:
    page = open_page()
    ask_a_failing_engine(page, service.parts.engine, QUESTION)
    told_failure(page, "smollm2").get_by_role("button", name="Retry").click()
    expect(answer_of(page, "smollm2")).to_contain_text("size of the plate.")
    expect(answer_of(page, "smollm2").get_by_role("alert")).to_have_count(0)


def test_a_service_that_does_not_answer_leaves_no_spinner_but_a_retry(open_page: OpenPage) -> None:
    page = open_page("/#/cluster")
    expect(page.get_by_role("heading", name="Cluster")).to_be_visible()
    page.route("**/v1/**", lambda route: route.abort())
    page.get_by_role("link", name="Fine-tune").click()
    notes = page.get_by_role("alert")
    expect(notes.first).to_contain_text("The service did not answer.")
    expect(notes.first).to_contain_text("Check that the service runs")
    expect(page.get_by_text("Loading")).to_have_count(0)
    page.unroute("**/v1/**")
    page.get_by_role("form").get_by_role("button", name="Retry").click()
    expect(page.get_by_label("Base model")).to_have_value("smollm2")
    expect(page.get_by_text("Jobs appear here.")).to_be_visible()  # this part asks again by itself
    expect(notes).to_have_count(0)


@pytest.mark.parametrize("program", ["curl", "Python"])
def test_a_copied_request_runs_as_it_is(open_page: OpenPage, program: str) -> None:
    page = open_page(permissions=["clipboard-read", "clipboard-write"])
    ask(page, "It's \"quoted\" $HOME, isn't it?")
    answers_in(page)
    page.get_by_role("button", name=f"Copy as {program} for handbook", exact=True).click()
    expect(answer_of(page, "handbook").get_by_text("Copied")).to_be_visible()
    text = page.evaluate("navigator.clipboard.readText()")
    command = ["bash", "-c", text] if program == "curl" else [sys.executable, "-c", text]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)["choices"][0]["message"]["content"] if program == "curl" else done.stdout
    assert said.strip() == "A hot lunch in the canteen costs 4.70 euros."


# Fine-tune


def test_a_faulty_training_file_is_shown_with_its_faults_beside_their_lines(
    open_page: OpenPage, tmp_path: Path
) -> None:
    faulty = tmp_path / "faulty.jsonl"
    first = (HANDBOOK / "train.jsonl").read_text().splitlines()[0]
    faulty.write_text(f"{first}\n{{broken {MARKUP}\n{first}\n")
    page = open_page("/#/fine-tune")
    page.get_by_label("Training data").set_input_files(faulty)
    faults = page.get_by_role("region", name="faults of faulty.jsonl").get_by_role("listitem")
    expect(faults).to_have_count(1)
    expect(faults.first.locator(".line-number")).to_have_text("2")
    expect(faults.first).to_contain_text(f"{{broken {MARKUP}")
    expect(faults.first.locator("mark")).to_have_text("b")
    expect(page.get_by_role("button", name="Create")).to_be_disabled()


def test_a_training_file_that_was_taken_away_is_not_trained_on(open_page: OpenPage) -> None:
    page = open_page("/#/fine-tune")
    held: list[Any] = []
    page.route("**/v1/files", lambda route: held.append(route))
    page.get_by_label("Training data").set_input_files(HANDBOOK / "train.jsonl")
    page.get_by_role("button", name="Take train.jsonl away").click()
    page.get_by_label("Training data").set_input_files(HANDBOOK / "validation.jsonl")
    expect(page.get_by_text("validation.jsonl")).to_be_visible()
    while len(held) < 2:
        page.wait_for_timeout(10)
    gone, kept = held
    assert gone.request.failure, "the upload of the file that was taken away went on"
    kept.continue_()
    expect(page.get_by_text("good, ")).to_be_visible()
    expect(page.get_by_text("train.jsonl")).to_have_count(0)


def test_a_model_is_made_watched_tried_and_promoted(open_page: OpenPage, service: PageService) -> None:
    page = open_page("/#/fine-tune")
    start_job(page, "canteen")
    expect(page.get_by_role("img", name=re.compile("Loss by step: train loss 0.0"))).to_be_visible()
    expect(page.get_by_text("New fine-tuned model created")).to_be_visible()
    checkpoint = page.get_by_role("row", name=re.compile(":ckpt-step-20 "))
    expect(checkpoint.get_by_role("link", name=re.compile("Try in Ask: .+:ckpt-step-20"))).to_be_visible()

    page.get_by_role("button", name="Promote to prod").click()
    expect(page.get_by_role("button", name="It is prod now")).to_be_visible()
    [made] = [
        card
        for card in Registry().list()
        if card.id.startswith("ft:smollm2:acme:canteen:") and "ckpt" not in card.id
    ]
    assert Registry().aliases("default")["prod"] == made.id

    page.get_by_role("link", name="Try it in Ask").click()
    ask(page, QUESTION)
    answers_in(page)
    expect(answer_of(page, made.id)).to_contain_text("A hot lunch in the canteen costs 4.70 euros.")


def test_a_job_is_paused_resumed_and_cancelled(open_page: OpenPage) -> None:
    page = open_page("/#/fine-tune")
    start_job(page, "slow")
    summary = page.get_by_role("region", name="Summary")
    for verb, status in {"Pause": "paused", "Resume": "running"}.items():
        summary.get_by_role("button", name=verb).click()
        expect(summary.locator(".badge")).to_have_text(status)
    summary.get_by_role("button", name="Cancel").click()
    page.get_by_role("dialog").get_by_role("button", name="Cancel the job").click()
    expect(summary.locator(".badge")).to_have_text("cancelled")
    expect(summary.get_by_role("button", name="Resume")).to_have_count(0)


def start_job(page: Any, suffix: str) -> None:
    page.get_by_label("Training data").set_input_files(HANDBOOK / "train.jsonl")
    expect(page.get_by_text("good, 128 rows")).to_be_visible()
    page.get_by_role("button", name="Work it out").click()
    expect(page.get_by_role("region", name="Plan")).to_contain_text("steps3")
    page.get_by_label("Suffix").fill(suffix)
    page.get_by_role("button", name="Create").click()


# Documents


@pytest.mark.parametrize("service", ["answers"], indirect=True)
def test_a_file_with_markup_is_uploaded_searched_cited_and_removed(
    open_page: OpenPage, tmp_path: Path
) -> None:
    file = tmp_path / "canteen<img src=x onerror=run>.md"
    file.write_text(
        f"# Canteen\n\nIt opens at noon.\n\n{PASSAGE}\n\n# Bicycles\n\nThe shed is open all day.\n"
    )
    broken = tmp_path / "picture.pdf"
    broken.write_bytes(b"%PDF-1.4 broken")
    page = open_page("/#/documents")
    expect(page.get_by_text("No collections yet")).to_be_visible()
    page.get_by_role("button", name="New collection").click()
    page.get_by_label("Name").fill(f"Canteen {MARKUP}")
    page.get_by_role("button", name="Make it").click()
    page.get_by_label("Add files").set_input_files([file, broken])
    uploads = page.get_by_role("list", name="Uploads").get_by_role("listitem")
    expect(uploads.nth(0)).to_contain_text("done")
    expect(uploads.nth(1)).to_contain_text("not taken")
    page.get_by_role("button", name=f"Chunks of {file.name}").click()
    expect(page.get_by_role("dialog")).to_contain_text(MARKUP)
    page.keyboard.press("Escape")

    page.get_by_label("Search this collection").fill("How much is a hot lunch?")
    page.get_by_role("button", name="Search", exact=True).click()
    hit = page.locator(".hits > li").first
    expect(hit).to_contain_text(PASSAGE)
    expect(hit.locator(".explanation")).to_contain_text("dense")
    expect(hit.locator(".explanation")).to_contain_text("sparse")
    assert "lunch" in hit.locator("mark").all_inner_texts()

    page.get_by_role("button", name="Ask these documents").click()
    ask(page, "A hot lunch costs 4.70 euros, a salad 3.20 euros?")
    answers_in(page)
    answer_of(page, "smollm2+rag").get_by_role("button", name=f"Source 1: {file.name}", exact=True).click()
    expect(page.get_by_role("dialog")).to_contain_text("shown in its document")
    expect(page.get_by_role("dialog")).to_contain_text("The shed is open all day.")
    page.keyboard.press("Escape")

    page.get_by_role("navigation", name="Parts").get_by_role("link", name="Documents").click()
    page.get_by_role("link", name=re.compile("^Canteen")).click()
    page.get_by_role("button", name=f"Delete {file.name}").click()
    page.get_by_role("dialog").get_by_role("button", name="Remove").click()
    expect(page.get_by_role("row", name=file.name)).to_have_count(0)


# Verdict


def test_a_comparison_is_started_and_its_report_read(open_page: OpenPage) -> None:
    page = open_page("/#/verdict")
    expect(page.get_by_text("Comparisons appear here.")).to_be_visible()
    page.get_by_label("Questions with their answers").set_input_files(HANDBOOK / "test.jsonl")
    page.get_by_label("Name").fill(f"Handbook {MARKUP}")
    page.get_by_role("button", name="Compare").click()
    chosen = page.get_by_role("region", name="Comparison")
    expect(chosen).to_contain_text("rag leads on facts of the documents")
    with page.context.expect_page() as opened:
        chosen.get_by_role("link", name="Read the report").click()
    expect(opened.value).to_have_title("Report")


def test_a_report_is_saved_where_a_key_is_needed_to_read_it(open_page: OpenPage) -> None:
    page = open_page("/#/verdict")
    page.get_by_role("button", name="API key").click()
    page.get_by_label("Key", exact=True).fill("hk-secret")
    page.get_by_role("button", name="Use", exact=True).click()
    page.get_by_label("Questions with their answers").set_input_files(HANDBOOK / "test.jsonl")
    page.get_by_role("button", name="Compare").click()
    with page.expect_download() as saved:
        page.get_by_role("button", name="Save the report").click()
    assert saved.value.path().read_bytes() == REPORT


def test_no_comparison_is_made_of_the_questions_that_others_replace(open_page: OpenPage) -> None:
    page = open_page("/#/verdict")
    page.get_by_label("Questions with their answers").set_input_files(HANDBOOK / "test.jsonl")
    expect(page.get_by_role("button", name="Compare")).to_be_enabled()
    page.route("**/v1/files", lambda route: route.abort())
    page.get_by_label("Questions: test.jsonl").set_input_files(HANDBOOK / "validation.jsonl")
    expect(page.get_by_role("alert")).to_contain_text("The service did not answer.")
    expect(page.get_by_role("button", name="Compare")).to_be_disabled()


def test_a_comparison_that_runs_tells_its_stage(open_page: OpenPage) -> None:
    page = open_page("/#/verdict")
    page.get_by_label("Questions with their answers").set_input_files(HANDBOOK / "test.jsonl")
    page.get_by_label("Name").fill("slow")
    page.get_by_role("button", name="Compare").click()
    expect(page.get_by_role("region", name="Comparison")).to_contain_text("cell rag")


# Cluster


def test_the_cluster_is_shown_with_the_health_of_each_part(open_page: OpenPage, service: PageService) -> None:
    page = open_page("/#/cluster")
    health = page.get_by_role("region", name="Health")
    expect(health.get_by_text("ready", exact=True)).to_have_count(4)
    expect(page.get_by_role("article", name=re.compile("^Node "))).to_contain_text("memory")
    expect(page.get_by_role("table")).to_contain_text("running since")
    service.parts.engine.healthy = False
    expect(health).to_contain_text("the generation engine has died")
    expect(page.get_by_role("link", name=re.compile("^Service:"))).to_contain_text("not ready")


# The whole


@pytest.fixture(scope="module")
def axe() -> Any:
    module = pytest.importorskip(
        "axe_playwright_python.sync_playwright", reason="needs axe-playwright-python"
    )
    return module.Axe()


@pytest.mark.parametrize("color_scheme", ["light", "dark"])
def test_axe_finds_no_violation_in_any_part(open_page: OpenPage, axe: Any, color_scheme: str) -> None:
    page = open_page(color_scheme=color_scheme)
    ask(page, QUESTION)
    answers_in(page)
    found = {"ask": _violations(axe, page)}
    page.get_by_role("button", name=re.compile("^Source 1")).first.click()
    found["passage"] = _violations(axe, page)
    page.keyboard.press("Escape")
    page.get_by_text("Models and options").click()
    for name, functions in {"functions at fault": "[{]", "functions": json.dumps([WEATHER])}.items():
        page.get_by_label("Functions that may be called").fill(functions)
        found[name] = _violations(axe, page)
    ask(page, QUESTION)
    answers_in(page)
    found["calls"] = _violations(axe, page)
    for part in PARTS[1:]:
        page.goto(page.url.split("#")[0] + f"#/{part}")
        expect(page.get_by_role("heading", level=1)).to_be_visible()
        expect(page.get_by_text("Loading")).to_have_count(0)
        found[part] = _violations(axe, page)
    assert not any(found.values()), found


@pytest.mark.parametrize("service", ["reads"], indirect=True)
def test_axe_finds_no_violation_in_parts_that_hold_something(
    open_page: OpenPage, axe: Any, service: PageService
) -> None:
    addresses = filled(service.url)
    page = open_page()
    found = {}
    for part in ("documents", "fine-tune", "verdict"):
        page.goto(f"{service.url}/#/{part}/{addresses[part]}")
        expect(page.get_by_role("heading", level=2).first).to_be_visible()
        expect(page.get_by_text("Loading")).to_have_count(0)
        found[part] = _violations(axe, page)
    assert not any(found.values()), found


def _violations(axe: Any, page: Any) -> list[str]:
    return [
        f"{violation['id']}: {node['html'][:160]}"
        for violation in axe.run(page).response["violations"]
        for node in violation["nodes"]
    ]


@pytest.mark.parametrize("width", [375, 1600])
def test_no_part_is_wider_than_the_screen(open_page: OpenPage, width: int) -> None:
    page = open_page(width=width)
    ask(page, QUESTION)
    answers_in(page)
    for part in PARTS:
        page.goto(page.url.split("#")[0] + f"#/{part}")
        expect(page.get_by_role("heading", level=1)).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth") <= width, part


def test_a_keyboard_alone_reaches_every_part(open_page: OpenPage) -> None:
    page = open_page()
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to content")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_role("main")).to_be_focused()
    for name in ("Documents", "Fine-tune", "Verdict", "Cluster", "Ask"):
        page.get_by_role("navigation", name="Parts").get_by_role("link", name=name).focus()
        page.keyboard.press("Enter")
        expect(page.get_by_role("heading", level=1, name=name)).to_be_visible()
        expect(page.get_by_role("main")).to_be_focused()


def test_the_theme_is_chosen_and_kept(open_page: OpenPage) -> None:
    page = open_page(color_scheme="light")
    background = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(background)
    page.get_by_role("button", name="Light or dark").click()
    dark = page.evaluate(background)
    assert dark != light
    page.reload()
    assert page.evaluate(background) == dark


def test_the_key_is_sent_and_forgotten_with_the_tab(open_page: OpenPage) -> None:
    page = open_page()
    page.get_by_role("button", name="API key").click()
    page.get_by_label("Key", exact=True).fill("hk-secret")
    with page.expect_request("**/v1/models") as sent:
        page.get_by_role("button", name="Use").click()
    assert sent.value.headers["authorization"] == "Bearer hk-secret"
    assert "hk-secret" not in page.evaluate("JSON.stringify(localStorage) + location.href + document.cookie")
    other = page.context.new_page()
    other.goto(page.url)
    assert other.evaluate("sessionStorage.length") == 0


def test_it_is_small_and_paints_at_once(open_page: OpenPage) -> None:
    page = open_page()
    expect(page.get_by_role("heading", level=1)).to_be_visible()
    loaded = "performance.getEntriesByType('resource').map((entry) => [entry.name, entry.encodedBodySize])"
    weight = sum(size for name, size in page.evaluate(loaded) if "/page/" in name)
    assert 20_000 < weight < MAX_WEIGHT_BYTES
    page.reload()  # the browser itself has started by now
    expect(page.get_by_role("heading", level=1)).to_be_visible()
    paint = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
    assert paint < MAX_FIRST_PAINT_MS


@pytest.mark.parametrize("service", ["reads"], indirect=True)
def test_screenshots_are_renewed_when_asked_for(
    open_page: OpenPage, service: PageService, request: pytest.FixtureRequest
) -> None:
    if not request.config.getoption("--screenshots", default=False):
        pytest.skip("renews docs/images with --screenshots")
    told = service.parts.engine.script
    service.parts.engine.script = lambda prompt, adapter: [
        word for word in told(prompt, adapter) if "=" not in word
    ]
    addresses = filled(service.url)
    for color_scheme in ("light", "dark"):
        for name, (width, height) in {"wide": (1280, 800), "narrow": (375, 740)}.items():
            page = open_page(width=width, height=height, color_scheme=color_scheme)
            page.evaluate(
                f"localStorage.setItem('hamlet.ask', '{{\"collection\": \"{addresses['store']}\"}}')"
            )
            page.reload()
            ask(page, QUESTION)
            answers_in(page)
            for part in PARTS:
                page.goto(f"{service.url}/#/{part}/{addresses.get(part, '')}")
                expect(page.get_by_text("Loading")).to_have_count(0)
                if part == "documents":
                    page.get_by_label("Search this collection").fill("How much is a hot lunch?")
                    page.get_by_role("button", name="Search", exact=True).click()
                    expect(page.locator(".hits > li").first).to_be_visible()
                if part == "fine-tune":
                    expect(page.locator(".chart canvas")).to_have_count(2)
                save(page.screenshot(), IMAGES / f"{part}-{name}-{color_scheme}.webp")


def filled(url: str) -> dict[str, str]:
    """Put something into every part by the API; ids by part."""
    with openai.OpenAI(base_url=f"{url}/v1", api_key="unused") as client:
        store = client.vector_stores.create(name="Handbook")
        for file in sorted((HANDBOOK / "docs").glob("*.md"))[:5]:
            client.vector_stores.files.upload_and_poll(vector_store_id=store.id, file=file)
        data = client.files.create(file=HANDBOOK / "train.jsonl", purpose="fine-tune")
        job = client.fine_tuning.jobs.create(model="smollm2", training_file=data.id, suffix="handbook")
        while client.fine_tuning.jobs.retrieve(job.id).status != "succeeded":
            pass
        questions = client.files.create(file=HANDBOOK / "test.jsonl", purpose="evals")
        body = {
            "name": "Handbook",
            "questions": questions.id,
            "cells": {"plain": "smollm2", "rag": "smollm2+rag"},
        }
        evaluation: Any = client.post("/evaluations", body=body, cast_to=object)
    return {"store": store.id, "documents": store.id, "fine-tune": job.id, "verdict": evaluation["id"]}


def save(png: bytes, path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    Image.open(io.BytesIO(png)).convert("RGB").save(path, "WEBP", quality=82, method=6)
