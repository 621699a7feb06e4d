from __future__ import annotations

from typing import Any

import pytest
from starlette.testclient import TestClient

from cluster.errors import Unavailable
from serving.api import create_app
from serving.cluster_view import ClusterState, LocalView
from serving.ray_view import GRAFANA_EVERY_S, RayView, jobs, nodes, queue, resources
from serving.scripted_parts import ScriptedApplication

GIB = 2**30

# Cut from what a dashboard of Ray 2.60 said.
NODE = {
    "hostname": "worker",
    "ip": "10.0.0.2",
    "cpu": 42.0,
    "mem": [4 * GIB, 3 * GIB, 25.0, 1 * GIB],
    "gpus": [{"name": "L4", "memoryUsed": 1024, "memoryTotal": 23034, "utilizationGpu": 90}],
    "raylet": {"nodeId": "b2", "state": "ALIVE", "isHeadNode": False},
}
HEAD = NODE | {
    "hostname": "zebra",
    "gpus": None,
    "raylet": {"nodeId": "a1", "state": "ALIVE", "isHeadNode": True},
}
SERVE = {
    "applications": {
        "default": {
            "status": "RUNNING",
            "deployments": {
                "router": {
                    "name": "router",
                    "status": "HEALTHY",
                    "message": "",
                    "target_num_replicas": 2,
                    "replicas": [
                        {
                            "replica_id": "r1",
                            "state": "RUNNING",
                            "node_id": "a1",
                            "pid": 7,
                            "start_time_s": 1.5,
                        }
                    ],
                }
            },
        }
    }
}
USAGE = {
    "CPU": [1.5, 4.0],
    "memory": [0.0, 8.0 * GIB],
    "node:10.0.0.2": [0.0, 1.0],
    "objectStoreMemory": [0, 1],
}
REPORT = {"usage": USAGE, "resourceDemand": [[{"CPU": 2.0}, 3], [{}, 9]], "pgDemand": []}
ANSWERS: dict[str, Any] = {
    "/api/cluster_status": {"data": {"clusterStatus": {"loadMetricsReport": REPORT}}},
    "/api/version": {"ray_version": "2.60.0"},
    "/nodes?view=summary": {"data": {"summary": [NODE, HEAD]}},
    "/api/serve/applications/": SERVE,
    "/api/jobs/": [],
    "/api/grafana_health": {"data": {"grafanaHost": "http://grafana:3000"}},
}


class Dashboard:
    """Answers as a dashboard, and counts what it was asked."""

    def __init__(self, **changes: Any) -> None:
        self.asked: list[str] = []
        self._answers = ANSWERS | changes

    def get(self, _url: str, path: str, _timeout_s: float = 5.0) -> Any:
        self.asked.append(path)
        answer = self._answers[path]
        if isinstance(answer, Exception):
            raise answer
        return answer


def view_of(dashboard: Dashboard, clock: Any = lambda: 0.0) -> RayView:
    return RayView(url=lambda: "http://head:8265", get=dashboard.get, clock=clock)


def test_a_dashboards_answers_become_one_state() -> None:
    state = view_of(Dashboard()).state()
    assert (state.kind, state.ray_version, state.dashboard_url) == ("ray", "2.60.0", "http://head:8265")
    assert state.grafana_url == "http://grafana:3000"
    assert [node.hostname for node in state.nodes] == ["zebra", "worker"]  # the head first
    [deployment] = state.applications[0].deployments
    assert (deployment.name, deployment.target_replicas, deployment.replicas[0].pid) == ("router", 2, 7)


def test_a_gpus_memory_is_told_in_bytes_and_a_nodes_without_its_caches() -> None:
    [worker] = nodes([NODE])
    assert worker.gpus[0].memory_used_bytes == GIB
    assert worker.memory_used_bytes == GIB


def test_places_and_object_stores_are_no_resources_to_reserve() -> None:
    assert set(resources(REPORT)) == {"CPU", "memory"}
    assert resources({}) == {}


def test_what_waits_are_requests_with_resources_and_whole_placement_groups() -> None:
    [single] = queue(REPORT)
    assert (single.resources, single.count) == ({"CPU": 2.0}, 3)
    bundles = {"strategy": "PACK", "bundles": [[{"CPU": 1.0}, 2], [{"CPU": 2.0, "GPU": 1.0}, 1]]}
    [group] = queue({"pgDemand": [[bundles, 1]]})
    assert group.resources == {"CPU": 4.0, "GPU": 1.0}


def test_jobs_are_those_that_were_submitted_newest_first() -> None:
    def job(job_id: str | None, start_ms: int) -> dict[str, Any]:
        return {
            "submission_id": job_id,
            "status": "RUNNING",
            "entrypoint": "python",
            "message": None,
            "start_time": start_ms,
            "end_time": None,
        }

    found = jobs([job("old", 1000), job("new", 2000), job(None, 3000)])
    assert [one.id for one in found.recent] == ["new", "old"]
    assert found.counts == {"RUNNING": 2}
    assert found.recent[0].started_at == 2.0


def test_grafana_is_asked_for_once_a_minute_whether_it_is_there_or_not() -> None:
    now = 0.0
    dashboard = Dashboard(**{"/api/grafana_health": Unavailable("none here")})
    view = view_of(dashboard, lambda: now)
    assert view.state().grafana_url is None
    view.state()
    assert dashboard.asked.count("/api/grafana_health") == 1
    now = GRAFANA_EVERY_S
    view.state()
    assert dashboard.asked.count("/api/grafana_health") == 2


def test_without_ray_the_machine_and_this_process_are_told() -> None:
    state = LocalView().state()
    assert state.kind == "local"
    assert state.nodes[0].memory_total_bytes > state.nodes[0].memory_used_bytes > 0
    assert state.applications[0].deployments[0].replicas[0].pid


class FixedView:
    def __init__(self, answer: ClusterState | Exception) -> None:
        self._answer = answer

    def state(self) -> ClusterState:
        if isinstance(self._answer, Exception):
            raise self._answer
        return self._answer


def cluster_answer(world: ScriptedApplication, answer: ClusterState | Exception) -> Any:
    app = create_app(world.front, cluster_view=FixedView(answer))
    return TestClient(app, client=("127.0.0.1", 1)).get("/v1/cluster")


def test_the_api_tells_the_state(world: ScriptedApplication) -> None:
    body = cluster_answer(world, LocalView().state()).json()
    assert body["object"] == "cluster"
    assert body["nodes"][0]["state"] == "ALIVE"


def test_a_cluster_that_does_not_answer_is_a_503(world: ScriptedApplication) -> None:
    answer = cluster_answer(world, Unavailable("nothing answers at http://head:8265"))
    assert answer.status_code == 503
    assert "nothing answers" in answer.json()["error"]["message"]


@pytest.mark.parametrize(("tenant", "num_told"), [("default", 1), ("acme", 0)])
def test_jobs_are_shown_to_the_operator_and_counted_for_others(tenant: str, num_told: int) -> None:
    from fastapi import FastAPI, Request, Response
    from starlette.middleware.base import RequestResponseEndpoint

    from serving import cluster_api

    job = {
        "submission_id": "ftjob-1-1",
        "status": "RUNNING",
        "entrypoint": "python -m training run",
        "start_time": 1000,
    }
    app = FastAPI()
    app.include_router(cluster_api.router(view_of(Dashboard(**{"/api/jobs/": [job]}))))

    @app.middleware("http")
    async def identify(request: Request, call_next: RequestResponseEndpoint) -> Response:
        request.state.tenant = tenant
        return await call_next(request)

    told = TestClient(app).get("/v1/cluster").json()["jobs"]
    assert len(told["recent"]) == num_told
    assert told["counts"] == {"RUNNING": 1}
