"""What the ports of a Ray node say to a caller without the token, over HTTP and gRPC."""

from __future__ import annotations

from collections.abc import Iterable

import grpc
import httpx

# Not the dashboard's page at `/`: everybody gets it, and it holds nothing until it is given the token.
HTTP_PATHS = (
    "/api/version",
    "/api/jobs/",
    "/api/serve/applications/",
    "/api/v0/nodes",
    "/logs",
    "/nodes",
)
# A method of each service that a node has, read-only where there is one.
GRPC_METHODS = (
    "/ray.rpc.NodeInfoGcsService/GetAllNodeInfo",
    "/ray.rpc.InternalKVGcsService/InternalKVKeys",
    "/ray.rpc.JobInfoGcsService/GetAllJobInfo",
    "/ray.rpc.NodeManagerService/GetNodeStats",
    "/ray.rpc.ObjectManagerService/Pull",
    "/ray.rpc.CoreWorkerService/GetCoreWorkerStats",
    "/ray.rpc.RayletDriver/ClusterInfo",
    "/ray.rpc.RuntimeEnvService/GetRuntimeEnvsInfo",
    "/ray.rpc.LogService/ListLogs",
    "/ray.rpc.ReporterService/GetTraceback",
)
REFUSALS = (
    grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.UNIMPLEMENTED,  # a service that this port has not
    grpc.StatusCode.UNAVAILABLE,  # a port that does not speak gRPC
)
# Metrics of Prometheus are served to everybody: Ray asks for no token there.
METRICS = "text/plain; version="
TIMEOUT_S = 3.0


def answers_to_a_stranger(address: str, ports: Iterable[int]) -> dict[str, str]:
    """Every call that was not refused, with its answer: `{"10.0.0.1:8265/api/jobs/": "200"}`."""
    found: dict[str, str] = {}
    for port in ports:
        found |= _http_answers(f"{address}:{port}")
        found |= _grpc_answers(f"{address}:{port}")
    return found


def _http_answers(target: str) -> dict[str, str]:
    found = {}
    for path in HTTP_PATHS:
        try:
            answer = httpx.get(f"http://{target}{path}", timeout=TIMEOUT_S)
        except httpx.HTTPError:
            return found  # it does not speak HTTP
        if answer.headers.get("content-type", "").startswith(METRICS):
            return found  # whatever it is asked
        if not 400 <= answer.status_code < 500:
            found[f"{target}{path}"] = str(answer.status_code)
    return found


def _grpc_answers(target: str) -> dict[str, str]:
    found = {}
    with grpc.insecure_channel(target) as channel:
        for method in GRPC_METHODS:
            try:
                answer = channel.unary_unary(method)(b"", timeout=TIMEOUT_S)
                found[f"{target}{method}"] = f"{len(answer)} bytes"
            except grpc.RpcError as refused:
                if refused.code() not in REFUSALS:
                    found[f"{target}{method}"] = str(refused.code())
                if refused.code() is grpc.StatusCode.UNAVAILABLE:
                    return found
    return found
