"""What runs where on a Ray cluster, read from its dashboard's HTTP API."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from cluster import dashboard
from cluster.connection import dashboard_url
from cluster.errors import Unavailable
from serving.cluster_view import (
    Application,
    ClusterState,
    Demand,
    Deployment,
    Gpu,
    Job,
    Jobs,
    Node,
    Replica,
    Reserved,
)

MAX_RECENT_JOBS = 30
MIB = 2**20
# Ray asks Grafana itself each time, and waits for it.
GRAFANA_TIMEOUT_S = 1.0
GRAFANA_EVERY_S = 60.0
# Ray's own names for places, which nobody reserves by hand.
_HIDDEN = ("node:", "objectStoreMemory", "object_store_memory", "acceleratorType:", "accelerator_type:")

Get = Callable[..., Any]


class RayView:
    """`get` is `dashboard.get`; tests hand in what a dashboard said."""

    def __init__(
        self,
        url: Callable[[], str] = dashboard_url,
        get: Get = dashboard.get,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._url = url
        self._get = get
        self._clock = clock
        self._grafana: str | None = None
        self._grafana_asked_at: float | None = None

    def state(self) -> ClusterState:
        url = self._url()
        usage = self._get(url, "/api/cluster_status")["data"]["clusterStatus"] or {}
        report = usage.get("loadMetricsReport") or {}
        return ClusterState(
            kind="ray",
            ray_version=self._get(url, "/api/version").get("ray_version"),
            dashboard_url=url,
            grafana_url=self._grafana_url(url),
            resources=resources(report),
            queue=queue(report),
            nodes=nodes(self._get(url, "/nodes?view=summary")["data"]["summary"]),
            applications=applications(self._get(url, "/api/serve/applications/")),
            jobs=jobs(self._get(url, "/api/jobs/")),
        )

    def _grafana_url(self, url: str) -> str | None:
        now = self._clock()
        if self._grafana_asked_at is None or now >= self._grafana_asked_at + GRAFANA_EVERY_S:
            self._grafana_asked_at = now
            try:
                answer = self._get(url, "/api/grafana_health", GRAFANA_TIMEOUT_S)
            except Unavailable:
                self._grafana = None  # Ray says 500 where there is no Grafana
            else:
                host = str(answer.get("data", {}).get("grafanaHost", ""))
                self._grafana = host if host.startswith(("http://", "https://")) else None
        return self._grafana


def resources(report: dict[str, Any]) -> dict[str, Reserved]:
    """What is reserved of each resource, from a load report."""
    usage = report.get("usage") or {}
    return {
        name: Reserved(used=used, total=total)
        for name, (used, total) in sorted(usage.items())
        if not name.startswith(_HIDDEN)
    }


def queue(report: dict[str, Any]) -> tuple[Demand, ...]:
    """What waits for room: single requests, and placement groups as the sum of their bundles."""
    single = [
        Demand(resources=wanted, count=count)
        for wanted, count in report.get("resourceDemand") or []
        if wanted  # actors that reserve nothing only wait for a process
    ]
    groups = [
        Demand(resources=_sum(bundles["bundles"] if isinstance(bundles, dict) else bundles), count=count)
        for bundles, count in report.get("pgDemand") or []
    ]
    return (*single, *groups)


def _sum(bundles: Sequence[Any]) -> dict[str, float]:
    """Resources of bundles, each given as resources or as `[resources, count]`."""
    total: Counter[str] = Counter()
    for bundle in bundles:
        wanted, count = bundle if isinstance(bundle, list) else (bundle, 1)
        for name, amount in wanted.items():
            total[name] += amount * count
    return dict(total)


def nodes(summary: Sequence[dict[str, Any]]) -> tuple[Node, ...]:
    """Machines, the head first, then by name. `mem` is total, available, percent, used."""
    found = [_node(entry) for entry in summary if entry.get("mem")]
    return tuple(sorted(found, key=lambda node: (not node.is_head, node.hostname, node.id)))


def _node(entry: dict[str, Any]) -> Node:
    raylet = entry["raylet"]
    total, available, *_ = entry["mem"]
    return Node(
        id=raylet["nodeId"],
        hostname=entry["hostname"],
        address=entry["ip"],
        state=raylet.get("state", "ALIVE"),
        is_head=bool(raylet.get("isHeadNode")),
        cpu_percent=entry["cpu"],
        memory_used_bytes=total - available,
        memory_total_bytes=total,
        gpus=tuple(map(_gpu, entry.get("gpus") or [])),
    )


def _gpu(entry: dict[str, Any]) -> Gpu:
    return Gpu(
        name=entry["name"],
        memory_used_bytes=int(entry["memoryUsed"] * MIB),
        memory_total_bytes=int(entry["memoryTotal"] * MIB),
        utilization_percent=entry.get("utilizationGpu"),
    )


def applications(answer: dict[str, Any]) -> tuple[Application, ...]:
    """Serve's applications with their deployments and replicas."""
    return tuple(
        Application(
            name=name,
            status=application["status"],
            deployments=tuple(_deployment(one) for one in application["deployments"].values()),
        )
        for name, application in answer["applications"].items()
    )


def _deployment(entry: dict[str, Any]) -> Deployment:
    return Deployment(
        name=entry["name"],
        status=entry["status"],
        message=entry.get("message") or "",
        target_replicas=entry["target_num_replicas"],
        replicas=tuple(
            Replica(
                id=replica["replica_id"],
                state=replica["state"],
                node_id=replica.get("node_id"),
                pid=replica.get("pid"),
                started_at=replica["start_time_s"],
            )
            for replica in entry["replicas"]
        ),
    )


def jobs(answer: Sequence[dict[str, Any]]) -> Jobs:
    """Submitted jobs, newest first; drivers that merely connected are left out."""
    submitted = [entry for entry in answer if entry.get("submission_id")]
    newest = sorted(submitted, key=lambda entry: entry.get("start_time") or 0, reverse=True)
    return Jobs(
        counts=dict(Counter(entry["status"] for entry in submitted)),
        recent=tuple(map(_job, newest[:MAX_RECENT_JOBS])),
    )


def _job(entry: dict[str, Any]) -> Job:
    return Job(
        id=entry["submission_id"],
        status=entry["status"],
        entrypoint=entry["entrypoint"],
        message=entry.get("message") or "",
        started_at=_seconds(entry.get("start_time")),
        ended_at=_seconds(entry.get("end_time")),
    )


def _seconds(ms: float | None) -> float | None:
    return ms / 1000 if ms else None
