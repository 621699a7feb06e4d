"""What callers change about registered models: deletion, and aliases that are moved and moved back.

Reading models is `/v1/models` in `api`, since bases and routes that are in no registry belong there too.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, Any

from fastapi import APIRouter, Path, Request
from pydantic import Field

from cluster.aliases import ALIAS_PATTERN, require_alias
from cluster.errors import InvalidInput, NotFound
from cluster.registry import SHARED, Registry
from serving import answer_schemas as shapes
from serving.authentication import tenant_of
from serving.bodies import KeptBody
from serving.openapi import answers, routes_of

Alias = Annotated[str, Path(pattern=ALIAS_PATTERN)]


class PromoteRequest(KeptBody):
    """`PUT /v1/aliases/{alias}`"""

    model: str = Field(min_length=1, description="Id or alias of the model that the alias means from now on.")


def router(registry: Registry, base_names: Collection[str]) -> APIRouter:
    """The endpoints over `registry`; no alias may be one of `base_names`, the models in no registry."""
    api = routes_of("Models", "/v1")

    @api.delete("/models/{name:path}", summary="Delete model", responses=answers(shapes.DeletedModel))
    def delete_model(name: str, request: Request) -> dict[str, Any]:
        tenant = tenant_of(request)
        card = registry.get(name, tenant)
        if card.id != name:
            raise InvalidInput(
                f"{name!r} is an alias of {card.id}: delete the alias at /v1/aliases/{name}, or the model by its id",
                "model",
            )
        if not registry.may_change(card.id, tenant):
            raise NotFound(
                f"{name!r} is not yours to delete: it is shared by all; python -m cluster models delete can",
                "model",
                "model_not_found",
            )
        registry.delete(card.id)
        return {"id": card.id, "object": "model", "deleted": True}

    @api.get("/aliases", summary="List aliases", responses=answers(shapes.AliasList))
    def aliases(request: Request) -> dict[str, Any]:
        seen = registry.aliases(SHARED) | registry.aliases(tenant_of(request))
        return {"object": "list", "data": [_alias(name, card) for name, card in sorted(seen.items())]}

    @api.put("/aliases/{alias}", summary="Promote model", responses=answers(shapes.Alias))
    def promote(alias: Alias, body: PromoteRequest, request: Request) -> dict[str, Any]:
        tenant = tenant_of(request)
        require_alias(alias, base_names)
        before = registry.promote(alias, body.model, tenant)
        return _alias(alias, registry.aliases(tenant)[alias], before)

    @api.post("/aliases/{alias}/rollback", summary="Roll back alias", responses=answers(shapes.Alias))
    def roll_back(alias: Alias, request: Request) -> dict[str, Any]:
        tenant = tenant_of(request)
        before = registry.aliases(tenant).get(alias)
        return _alias(alias, registry.roll_back(alias, tenant), before)

    @api.delete("/aliases/{alias}", summary="Delete alias", responses=answers(shapes.DeletedAlias))
    def remove(alias: Alias, request: Request) -> dict[str, Any]:
        registry.remove_alias(alias, tenant_of(request))
        return {"id": alias, "object": "model.alias", "deleted": True}

    return api


def _alias(name: str, card_id: str, previous: str | None = None) -> dict[str, Any]:
    body = {"id": name, "object": "model.alias", "model": card_id}
    return body | ({"previous_model": previous} if previous else {})
