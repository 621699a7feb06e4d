"""Processes of the deployed application killed by SIGKILL under load: what is lost, and what is told of it."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import httpx
import psutil
import pytest
from routers import until
from steady_load import NO_ANSWER, steady_load

from cluster.head_record import HeadRecord, processes

BACK_S = 90.0
NUM_CLIENTS = 2  # of the steady load, each with one request at a time

pytestmark = pytest.mark.soak


def named(head: HeadRecord, title: str) -> list[psutil.Process]:
    """Processes of the head by their programs, or what Ray calls them."""
    found = []
    for process in processes(head):
        with suppress(psutil.Error):
            if title in "".join(process.cmdline()[:1]):
                found.append(process)
    return found


def kill_under_load(base_url: str, head: HeadRecord, title: str) -> list[int]:
    """Statuses, other than 200, of a steady load in the midst of which a process is killed; ends when all is well."""
    with steady_load(base_url, "smollm2+rag") as statuses:
        until(lambda: statuses.count(200) >= 4)
        num_before = len(statuses)
        victims = named(head, title)
        assert victims
        for victim in victims:
            victim.kill()
        until(lambda: statuses[num_before:].count(200) >= 20, BACK_S)
    return [status for status in statuses if status != 200]


@pytest.mark.parametrize(
    "title",
    [
        "ServeReplica:hamlet:retriever",
        "ServeReplica:hamlet:embedder",
        "ray::Owner",  # of the collections
    ],
)
def test_what_a_part_was_answering_is_lost_at_most_and_the_rest_waits(
    base_url: str, head: HeadRecord, title: str
) -> None:
    lost = kill_under_load(base_url, head, title)
    assert set(lost) <= {503}
    assert len(lost) <= NUM_CLIENTS


def test_without_its_proxy_the_application_is_out_of_reach_until_serve_has_another(
    base_url: str, head: HeadRecord
) -> None:
    # A new one answers 404 until Serve has told it the application.
    assert set(kill_under_load(base_url, head, "haproxy")) <= {NO_ANSWER, 404}


def test_of_two_replicas_the_one_that_dies_costs_what_it_was_answering_alone(
    base_url: str, head: HeadRecord, deploy: Callable[..., str]
) -> None:
    deploy(embedder={"min_replicas": 2, "max_replicas": 2})
    title = "ServeReplica:hamlet:embedder"

    def state() -> tuple[str, int]:
        (found,) = httpx.get(f"{base_url}/v1/cluster", timeout=10).json()["applications"]
        replicas = [one["replicas"] for one in found["deployments"] if one["name"] == "embedder"]
        return found["status"], sum(map(len, replicas))

    until(lambda: state() == ("RUNNING", 2) and len(named(head, title)) == 2, BACK_S)

    def embed(texts: list[str]) -> int:
        body = {"model": "minilm", "input": texts}
        return httpx.post(f"{base_url}/v1/embeddings", json=body, timeout=60).status_code

    replicas = named(head, title)
    spent_s = {replica.pid: replica.cpu_times().user for replica in replicas}
    with ThreadPoolExecutor(21) as pool:
        running = pool.submit(embed, ["word " * 200] * 2048)
        busy = until(lambda: [one for one in replicas if one.cpu_times().user > spent_s[one.pid] + 0.5])
        busy[0].kill()
        assert list(pool.map(embed, [["hello"]] * 20)) == [200] * 20
        assert running.result() == 503
