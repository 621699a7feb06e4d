"""Chromium, and the page in it. Skipped where there is no Chromium; `--screenshots` renews docs/images."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from page_service import PageService, page_alone, reading_files, running, scripted_application

# What Chromium prints about answers that the page itself shows to its reader.
EXPECTED_MESSAGES = ("Failed to load resource",)
DEADLINE_MS = 30_000


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--screenshots", action="store_true", help="renew docs/images from the page")


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """One Chromium for all tests."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: make test installs it")
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("needs Chromium (Debian: apt install chromium)")
    playwright.expect.set_options(timeout=DEADLINE_MS)
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def service(home: Path, request: pytest.FixtureRequest) -> Iterator[PageService]:
    """The scripted application; a test changes its parts while it runs.

    With the parameter `reads` it takes up files that are uploaded; with `answers` it also answers from them.
    """
    parts = scripted_application()
    does = getattr(request, "param", None)
    reads = reading_files(parts, answers_from_them=does == "answers") if does else nullcontext()
    with reads, running(parts) as started:
        yield started


@pytest.fixture
def open_page(browser: Any, service: PageService) -> Iterator[Callable[..., Any]]:
    """`open_page("/#/cluster", width=375, color_scheme="dark")`; at the end nothing may have gone wrong in it.

    No error in the console, no request to another host, and no text from outside that ran.
    """
    contexts, faults = [], []

    def open_(path: str = "/", width: int = 1280, height: int = 800, **options: Any) -> Any:
        context = browser.new_context(viewport={"width": width, "height": height}, **options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(DEADLINE_MS)
        page.on("pageerror", lambda error: faults.append(f"error: {error}"))
        page.on("console", lambda message: faults.extend(_fault(message)))
        page.on("request", lambda request: faults.extend(_strangers(request.url, service.url)))
        page.goto(service.url + path)
        return page

    yield open_
    titles = [page.title() for context in contexts for page in context.pages]
    for context in contexts:
        context.close()
    assert not faults
    assert "run" not in titles


@pytest.fixture
def functions(shared_page: Any) -> Callable[..., Any]:
    """`functions("format.js", "bytes", [1])` calls it in the page; the answer as JSON would carry it."""

    def call(module: str, function: str, arguments: list[Any]) -> Any:
        code = """([path, name, given]) =>
            import(path).then((module) => JSON.stringify(module[name](...given) ?? null))"""
        return json.loads(shared_page.evaluate(code, [f"/page/{module}", function, arguments]))

    return call


@pytest.fixture(scope="module")
def shared_page(browser: Any) -> Iterator[Any]:
    with page_alone() as url:
        page = browser.new_page()
        page.goto(url)
        yield page
        page.close()


def _fault(message: Any) -> list[str]:
    is_bad = message.type in ("error", "warning") and not message.text.startswith(EXPECTED_MESSAGES)
    return [message.text] if is_bad else []


def _strangers(address: str, ours: str) -> list[str]:
    is_ours = urlsplit(address).netloc == urlsplit(ours).netloc or address.startswith(("data:", "blob:"))
    return [] if is_ours else [f"request to {address}"]
