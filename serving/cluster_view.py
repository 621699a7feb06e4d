"""What runs where: the shape in which it is told, and the view of one machine without Ray (`ray_view`: with it)."""

from __future__ import annotations

import os
import platform
from typing import Literal, Protocol

import psutil
from pydantic import BaseModel, ConfigDict, Field


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Reserved(_Part):
    """A resource that Ray hands out. Memory in bytes, all else in units."""

    used: float
    total: float


class Demand(_Part):
    """`count` requests for these resources wait for room."""

    resources: dict[str, float]
    count: int


class Gpu(_Part):
    name: str
    memory_used_bytes: int
    memory_total_bytes: int
    utilization_percent: float | None = None


class Node(_Part):
    """One machine, or pod."""

    id: str
    hostname: str
    address: str
    state: str = Field(description="ALIVE or DEAD.")
    is_head: bool
    cpu_percent: float
    memory_used_bytes: int
    memory_total_bytes: int
    gpus: tuple[Gpu, ...] = ()


class Replica(_Part):
    id: str
    state: str
    node_id: str | None
    pid: int | None
    started_at: float = Field(description="Unix seconds.")
    memory_bytes: int | None = None


class Deployment(_Part):
    name: str
    status: str
    message: str
    target_replicas: int
    replicas: tuple[Replica, ...]


class Application(_Part):
    name: str
    status: str
    deployments: tuple[Deployment, ...]


class Job(_Part):
    id: str
    status: str
    entrypoint: str
    message: str
    started_at: float | None = Field(description="Unix seconds.")
    ended_at: float | None = Field(description="Unix seconds.")


class Jobs(_Part):
    """Jobs by status, and the newest ones."""

    counts: dict[str, int] = Field(default_factory=dict)
    recent: tuple[Job, ...] = ()


class ClusterState(_Part):
    """Everything at one moment."""

    kind: Literal["ray", "local"]
    ray_version: str | None = None
    dashboard_url: str | None = None
    grafana_url: str | None = None
    resources: dict[str, Reserved]
    queue: tuple[Demand, ...] = ()
    nodes: tuple[Node, ...]
    applications: tuple[Application, ...] = ()
    jobs: Jobs = Jobs()


class ClusterView(Protocol):
    def state(self) -> ClusterState:
        """What runs now. Blocks for some milliseconds; raises Unavailable when the cluster does not answer."""


class LocalView:
    """This machine and this process, where no Ray runs."""

    def state(self) -> ClusterState:
        name = "application"
        memory = psutil.virtual_memory()
        process = psutil.Process()
        num_cpus = float(os.cpu_count() or 1)
        cpu_percent = psutil.cpu_percent()
        node = Node(
            id="local",
            hostname=platform.node(),
            address="127.0.0.1",
            state="ALIVE",
            is_head=True,
            cpu_percent=cpu_percent,
            memory_used_bytes=memory.used,
            memory_total_bytes=memory.total,
        )
        replica = Replica(
            id=f"{name}#{process.pid}",
            state="RUNNING",
            node_id="local",
            pid=process.pid,
            started_at=process.create_time(),
            memory_bytes=process.memory_info().rss,
        )
        deployment = Deployment(
            name=name, status="HEALTHY", message="", target_replicas=1, replicas=(replica,)
        )
        return ClusterState(
            kind="local",
            resources={
                "CPU": Reserved(used=num_cpus * cpu_percent / 100, total=num_cpus),
                "memory": Reserved(used=memory.used, total=memory.total),
            },
            nodes=(node,),
            applications=(Application(name=name, status="RUNNING", deployments=(deployment,)),),
        )
