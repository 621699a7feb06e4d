"""Steps that every walk through the page shares."""

from __future__ import annotations

from typing import Any

import pytest

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: make test installs it")
expect = playwright.expect


def ask(page: Any, question: str) -> None:
    page.get_by_label("Question").fill(question)
    expect(page.get_by_role("button", name="Ask", exact=True)).to_be_enabled()
    page.get_by_label("Question").press("Enter")


def answers_in(page: Any, deadline_ms: float | None = None) -> Any:
    """The answers of the last turn, once all of them have ended."""
    expect(page.locator("article[aria-busy=true]")).to_have_count(0, timeout=deadline_ms)
    return page.locator(".turns > li").last.get_by_role("article")


def answer_of(page: Any, model: str) -> Any:
    return page.get_by_role("article", name=f"Answer of {model}", exact=True).last


def ask_a_failing_engine(page: Any, engine: Any, question: str) -> None:
    """Ask, and see every answer broken off after three steps; the next ones come whole."""
    engine.fail_after_steps = 3
    ask(page, question)
    answers_in(page)
    engine.fail_after_steps = None


def told_failure(page: Any, model: str) -> Any:
    """The note of an answer whose engine failed."""
    alert = answer_of(page, model).get_by_role("alert")
    expect(alert).to_contain_text("the generation engine failed; it is being restarted")
    expect(alert).to_contain_text("retry in 5 s")
    return alert
