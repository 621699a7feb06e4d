"""Vector stores over real HTTP with the official client, on the embedded engine; and readers that are killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
import uvicorn
from scripted_tenants import assert_nothing_is_told, two_tenants

from cluster.database import open_database
from cluster.files import Files
from cluster.ports import free_port
from cluster.vector_store_records import Chunking, NewFile
from cluster.vector_stores import VectorStores
from retrieval.client import CollectionsClient
from retrieval.edge_store import EdgeStore
from retrieval.owner import InProcess
from retrieval.service import Collections
from serving.config import FineTuningConfig, ServingConfig
from serving.platform import Platform
from serving.scripted_parts import ScriptedApplication, scripted_card

DEADLINE_S = 60.0
REPOSITORY = Path(__file__).parents[3]
DOCS = REPOSITORY / "examples" / "handbook" / "docs"


def until(condition: Callable[[], Any], deadline_s: float = DEADLINE_S) -> Any:
    ends_at = time.monotonic() + deadline_s
    while time.monotonic() < ends_at:
        if found := condition():
            return found
        time.sleep(0.02)
    raise AssertionError("not within the deadline")


@pytest.fixture
def world(tmp_path: Path) -> Iterator[ScriptedApplication]:
    """An application on the embedded engine, with a thread that reads files."""
    config = ServingConfig(fine_tuning=FineTuningConfig(launcher="local"))
    collections = Collections(EdgeStore(tmp_path / "collections"))
    application = ScriptedApplication(config=config, platform=Platform.of(config), collections=collections)
    application.search_for_real()
    stop = threading.Event()
    reader = threading.Thread(target=application.worker().run, args=(stop,))
    reader.start()
    yield application
    stop.set()
    reader.join()
    collections.close()


@pytest.fixture
def client(world: ScriptedApplication) -> Iterator[openai.OpenAI]:
    port = free_port("127.0.0.1")
    server = uvicorn.Server(uvicorn.Config(world.app, "127.0.0.1", port, log_level="warning", lifespan="off"))
    thread = threading.Thread(target=server.run)
    thread.start()
    until(lambda: server.started)
    yield openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="unused", max_retries=0)
    server.should_exit = True
    thread.join()


def test_a_script_for_the_hosted_api_runs_unchanged(
    client: openai.OpenAI, world: ScriptedApplication
) -> None:
    store = client.vector_stores.create(
        name="handbook", expires_after={"anchor": "last_active_at", "days": 7}, metadata={"team": "hr"}
    )
    one = client.vector_stores.files.upload_and_poll(
        vector_store_id=store.id, file=(DOCS / "travel.md"), attributes={"area": "travel"}
    )
    assert one.status == "completed"
    uploaded = [
        client.files.create(file=path, purpose="assistants") for path in sorted(DOCS.glob("*.md"))[:3]
    ]
    batch = client.vector_stores.file_batches.create_and_poll(
        vector_store_id=store.id, file_ids=[file.id for file in uploaded]
    )
    assert (batch.status, batch.file_counts.completed) == ("completed", 3)
    assert client.vector_stores.retrieve(store.id).file_counts.completed == 4
    assert len(list(client.vector_stores.files.list(store.id, limit=1))) == 4
    assert len(list(client.vector_stores.file_batches.list_files(batch.id, vector_store_id=store.id))) == 3

    question = "Which travel agency arranges flights?"
    page = client.vector_stores.search(
        store.id,
        query=question,
        max_num_results=3,
        filters={"type": "eq", "key": "area", "value": "travel"},
        ranking_options={"score_threshold": 0.01},
    )
    assert {result.file_id for result in page.data} == {one.id}
    assert page.data[0].attributes == {"area": "travel"}
    explained = client.vector_stores.search(
        store.id, query=question, extra_body={"hamlet": {"explain": True}}
    )
    assert explained.data[0].model_extra["hamlet"]["scores"]["fused"] > 0  # type: ignore[index]

    changed = client.vector_stores.files.update(
        one.id, vector_store_id=store.id, attributes={"area": "trips"}
    )
    assert changed.attributes == {"area": "trips"}
    parts = client.vector_stores.files.content(one.id, vector_store_id=store.id)
    assert "agency" in "".join(part.text or "" for part in parts.data)

    world.engine.script = ["The agency is Bluefin [1]."]
    answer = client.chat.completions.create(
        model="smollm2",
        messages=[{"role": "user", "content": question}],
        tools=[{"type": "file_search", "vector_store_ids": [store.id], "max_num_results": 2}],  # type: ignore[list-item]
        extra_body={"hamlet": {"score_threshold": 0.0}},
    )
    cited = (answer.choices[0].message.annotations or [])[0].model_extra["file_citation"]  # type: ignore[index]
    assert cited["filename"] == "travel.md"

    client.vector_stores.files.delete(one.id, vector_store_id=store.id)
    with pytest.raises(openai.NotFoundError):
        client.vector_stores.files.retrieve(one.id, vector_store_id=store.id)
    assert client.vector_stores.delete(store.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.vector_stores.search(store.id, query=question)
    assert world.collections.count("vector-stores-default") == 0


def test_searches_right_after_upload_see_a_status_and_never_a_part(client: openai.OpenAI) -> None:
    text = " ".join(f"word{number}" for number in range(20_000))
    file = client.files.create(file=("long.txt", text.encode()), purpose="assistants")
    store = client.vector_stores.create(file_ids=[file.id])
    assert store.status == "in_progress"
    done = until(lambda: (found := client.vector_stores.retrieve(store.id)).status == "completed" and found)
    assert done.usage_bytes > len(text)
    page = client.vector_stores.search(store.id, query="word19999", max_num_results=1)
    assert "word19999" in page.data[0].content[0].text


def run_reader(folder: Path, lease_s: float, *stepwise: str) -> subprocess.Popen[str]:
    program = [sys.executable, str(Path(__file__).with_name("reader_process.py"))]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    return subprocess.Popen(
        [*program, str(folder), str(lease_s), *stepwise],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )


@pytest.mark.soak
def test_a_reader_that_is_killed_is_followed_by_one_that_finishes_its_work(tmp_path: Path) -> None:
    text = " ".join(f"word{number}" for number in range(60_000))
    engine, cut = open_database(), Chunking(100, 0)
    files = Files(engine)
    file = files.add(files.stored("default", "long.txt", "assistants", text.encode()))
    stores = VectorStores(engine)
    store = stores.create("default", files=[NewFile(file.id, "long.txt", cut, {"size": "long"})])
    # Killed after its first write, then after its second: each time a part of the document is there.
    for num_writes in (1, 2):
        reader = run_reader(tmp_path, 0.5, "stepwise")
        assert reader.stdin is not None
        assert reader.stdout is not None
        for number in range(num_writes):
            assert reader.stdout.readline() == "written\n"
            if number + 1 < num_writes:
                print(file=reader.stdin, flush=True)
        reader.send_signal(signal.SIGKILL)
        reader.wait()
        assert stores.get("default", store.id).file_counts.in_progress == 1
        until(lambda: _lease_is_over(engine))
    assert run_reader(tmp_path, 30).wait(DEADLINE_S) == 0
    done = stores.files.get("default", store.id, file.id)
    assert (done.status.value, done.error) == ("completed", None)
    collections = CollectionsClient(InProcess(Collections(EdgeStore(tmp_path))))
    try:
        document = f"{store.id}/{file.id}"
        chunks = collections.chunks("vector-stores-default", document)
        assert len(chunks) == collections.count("vector-stores-default") == 600
        assert " ".join(chunk.text for chunk in chunks) == text
        assert done.usage_bytes == sum(len(chunk.text) + 4 * 64 for chunk in chunks)
    finally:
        collections.close()


def _lease_is_over(engine: Any) -> bool:
    with engine.connect() as connection:
        leased_until = connection.exec_driver_sql("SELECT leased_until FROM vector_store_files").scalar()
    return bool(leased_until <= time.time())


@pytest.mark.soak
def test_ten_thousand_random_requests_across_tenants_are_told_nothing() -> None:
    assert_nothing_is_told(two_tenants(scripted_card), 10_000)
