"""`GET /v1/cluster`: what runs where, as one JSON object."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter, Request

from cluster.tenants import DEFAULT_TENANT
from serving.answer_schemas import Cluster
from serving.authentication import tenant_of
from serving.cluster_view import ClusterView
from serving.openapi import answers, routes_of


def router(view: ClusterView) -> APIRouter:
    routes = routes_of("Cluster")

    @routes.get("/v1/cluster", summary="Show cluster", responses=answers(Cluster))
    async def cluster(request: Request) -> dict[str, Any]:
        """Nodes with their load, reserved resources, deployments with their replicas, jobs, and where to see more."""
        state = await asyncio.to_thread(view.state)
        answer = {"object": "cluster"} | state.model_dump(mode="json")
        # The default project is the operator's. Others see how many jobs there are, not whose.
        if tenant_of(request) != DEFAULT_TENANT:
            answer["jobs"]["recent"] = []
        return answer

    return routes
