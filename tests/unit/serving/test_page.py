from __future__ import annotations

import gzip
import re
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from serving.page import FOLDER, HEADERS, read_assets, respond
from serving.scripted_parts import ScriptedApplication

MAX_WEIGHT_BYTES = 300_000
OWN_SCRIPTS = [path for path in sorted(FOLDER.rglob("*.js")) if "vendor" not in path.parts]


@pytest.fixture
def client(world: ScriptedApplication) -> TestClient:
    return TestClient(world.app)


def test_the_page_is_at_the_root_under_a_strict_policy(client: TestClient) -> None:
    answer = client.get("/")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_every_file_that_is_named_is_there_with_its_type(client: TestClient) -> None:
    named = re.findall(r'(?:href|src)="(page/[^"]+)"', client.get("/").text)
    assert len(named) > 5
    for path in named:
        answer = client.get(f"/{path}")
        assert answer.status_code == 200, path
        assert answer.headers["content-security-policy"] == HEADERS["content-security-policy"]
    assert client.get("/page/main.js").headers["content-type"].startswith("text/javascript")


@pytest.mark.parametrize("path", ["/page/none.js", "/page/../page.py", "/page/%2e%2e/page.py", "/page/"])
def test_nothing_but_the_pages_files_is_served(client: TestClient, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "unknown_url"


@pytest.mark.parametrize("path", ["/docs", "/redoc"])
def test_the_documentation_of_the_api_loads_nothing_from_elsewhere(client: TestClient, path: str) -> None:
    page = client.get(path).text
    named = re.findall(r'(?:href|src)="([^"]+)"', page)
    assert len(named) > 1
    for asset in named:
        assert asset.startswith("/docs/assets/"), asset
        assert client.get(asset).status_code == 200
    missing = client.get("/docs/assets/none.js")
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "unknown_url")


def test_a_file_that_the_browser_has_is_not_sent_again(client: TestClient) -> None:
    first = client.get("/page/main.js")
    again = client.get("/page/main.js", headers={"if-none-match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert client.get("/page/main.js", headers={"if-none-match": '"other"'}).status_code == 200


def test_a_file_is_compressed_for_who_can_read_it(tmp_path: Path) -> None:
    (tmp_path / "a.css").write_text("a { color: red }\n" * 50)
    [asset] = read_assets(tmp_path).values()
    compressed = respond(asset, {"accept-encoding": "br, gzip"})
    assert gzip.decompress(bytes(compressed.body)) == asset.body
    assert compressed.headers["content-encoding"] == "gzip"
    plain = respond(asset, {})
    assert bytes(plain.body) == asset.body
    assert "content-encoding" not in plain.headers


def test_the_page_is_compressed_once_in_a_process() -> None:
    assert read_assets() is read_assets()


def test_the_whole_page_weighs_less_than_it_may() -> None:
    assets = read_assets()
    weight = sum(len(asset.gzipped) for path, asset in assets.items() if not path.endswith((".md", ".txt")))
    assert weight < MAX_WEIGHT_BYTES


@pytest.mark.parametrize("path", OWN_SCRIPTS, ids=lambda path: path.relative_to(FOLDER).as_posix())
def test_no_script_of_ours_makes_markup_of_a_text(path: Path) -> None:
    text = path.read_text()
    for sink in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function"):
        assert sink not in text
    assert "http://" not in text
    assert "https://" not in text


def test_the_page_calls_the_public_api_alone(client: TestClient) -> None:
    called = {path for script in OWN_SCRIPTS for path in re.findall(r'["`](v1/[a-z_]+)', script.read_text())}
    assert "v1/chat" in called
    known = {"/".join(path.split("/")[1:3]) for path in client.get("/openapi.json").json()["paths"]}
    platform = {"v1/files", "v1/fine_tuning", "v1/vector_stores", "v1/aliases", "v1/evaluations"}
    assert called <= known | platform
