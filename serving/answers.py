"""From a chat request to what is generated: names, route, and which of the passages found it rests on.

Holds no state between requests: everything about one answer lives in its `Prepared`.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

from cluster.cards import ModelKind
from cluster.errors import Conflict, NotFound, Unavailable
from cluster.router_policy import ANSWER_ROUTES, AUTO, RAG_SUFFIX
from serving.backends import Backends, Classified
from serving.catalogue import Catalogue, ServedModel
from serving.chat_search import ChatSearch
from serving.config import ServingConfig
from serving.generator import GenerationJob
from serving.policy import (
    Available,
    Features,
    Preset,
    Route,
    RouteKind,
    Rule,
    choose,
    rule_in_force,
    sentence_pair,
)
from serving.prepared import Prepared
from serving.prompts import MAX_QUERY_CHARS, Passage, last_user_turn
from serving.schemas import ChatRequest
from serving.stages import Stages
from serving.vector_store_search import VectorStoreSearch

log = logging.getLogger(__name__)

NOTHING_FOUND = "I do not know: the documents say nothing about this."
STILL_READING = "I do not know yet: some of the documents are still being read. Ask again in a moment."


class Answers:
    """Prepares chat answers with the parts of one application."""

    def __init__(
        self,
        config: ServingConfig,
        backends: Backends,
        catalogue: Catalogue,
        stores: VectorStoreSearch | None,
    ) -> None:
        self._config = config
        self._backends = backends
        self._catalogue = catalogue
        self._search = ChatSearch(config.retriever, backends, catalogue, stores)

    async def prepare(self, request: ChatRequest, request_id: str, tenant: str) -> Prepared:
        """Decide on the route and retrieve.

        Raises NotFound for an unknown model, reranker or collection, and what retrieval raises: a caller who asked
        for sources by name is never answered without them in silence. `auto` may be, and says so.
        """
        messages = tuple(message.to_message() for message in request.messages)
        prepared = Prepared(
            model=self._catalogue.base,
            route=Route(RouteKind.PLAIN, self._catalogue.base.name, ""),
            job=GenerationJob(
                request_id,
                messages,
                max_tokens=request.answer_tokens,
                max_tokens_field=request.answer_tokens_field,
                sampling=request.sampling(),
            ),
            stages=Stages(),
            question=messages[last_user_turn(messages)].content,
            reranker=await self._search.reranker(request, tenant),
        )
        if request.model == AUTO:
            await self._automatic(prepared, request, tenant)
        else:
            await self._by_name(prepared, request, tenant)
        return prepared

    async def _by_name(self, prepared: Prepared, request: ChatRequest, tenant: str) -> None:
        name = request.model.removesuffix(RAG_SUFFIX)
        if name == AUTO:
            raise NotFound(
                f"{request.model} is no model: auto decides by itself whether to retrieve; for always, send a model's "
                f"name with {RAG_SUFFIX}, or hamlet.route with auto",
                "model",
                "model_not_found",
            )
        with prepared.stages.measure("route"):
            model = await self._catalogue.of(tenant).find(name, ModelKind.GENERATOR)
        retrieves = name != request.model or request.file_search is not None
        kind = _kind(tuned=model.card is not None, retrieves=retrieves)
        route = Route(kind, model.name, f"asked for as {request.model}")
        found = await self._search.passages(prepared, request, tenant) if kind.retrieves else ()
        await self._take(prepared, request, tenant, model, route, found)

    async def _automatic(self, prepared: Prepared, request: ChatRequest, tenant: str) -> None:
        # A verdict is a text: neither a call nor JSON.
        is_free = not _brings_more(request) and prepared.job.sampling.json_schema is None
        pair = sentence_pair(prepared.question) if is_free else None
        with prepared.stages.measure("route"):
            rule = rule_in_force(self._config.router, await self._catalogue.policy())
            tuned = await self._tuned_model(rule, tenant)
            pair_classifier = await self._catalogue.of(tenant).pair_classifier() if pair else None
        preset = _asked_for(request)
        if preset is None and pair_classifier is None:
            preset = await self._learned(prepared, rule, tenant)
        searches = preset.kind.retrieves if preset else pair_classifier is None
        hits = await self._search.passages_or_none(prepared, request, tenant) if searches else None
        best_score = None if hits is None else max((hit.score for hit in hits), default=-1.0)
        is_weak = preset is None and best_score is not None and best_score < rule.score_threshold
        if is_weak and await self._search.is_reading(request, tenant):
            # What is not read yet may hold the answer, which by name is told too.
            preset = Preset(
                rule.grounded_route, f"best passage scores {best_score:.2f}, and documents are still read"
            )
        features = Features(pair, best_score, preset)
        available = Available(
            base=self._catalogue.base.name,
            tuned=tuned.name if tuned else None,
            pair_classifier=pair_classifier.name if pair_classifier else None,
            retrieval=hits is not None,
        )
        by_name = {model.name: model for model in (self._catalogue.base, tuned, pair_classifier) if model}
        route = choose(features, available, rule)
        if pair is not None and route.kind is RouteKind.CLASSIFIER:
            prepared.verdict = await self._verdict(prepared, by_name[route.model], pair)
            if prepared.verdict is None:
                route = choose(features, available.without(route.model), rule)
        await self._take(prepared, request, tenant, by_name[route.model], route, hits or ())
        if prepared.verdict is not None:
            label, score = prepared.verdict.scores[0]
            prepared.ready = f"{label} ({score:.2f})"
        elif prepared.ready is None and prepared.model.deployment != self._catalogue.base.deployment:
            route = choose(features, available.without(route.model), rule)
            prepared.instead = replace(prepared)
            await self._take(prepared.instead, request, tenant, by_name[route.model], route, hits or ())

    async def _verdict(
        self, prepared: Prepared, model: ServedModel, pair: tuple[str, str]
    ) -> Classified | None:
        """What the classifier of pairs says; None when it is down."""
        assert model.card is not None
        try:
            with prepared.stages.measure("classify"):
                (verdict,) = await self._backends.classifier.classify(model.card, [pair])
        except Unavailable as exc:
            log.warning("request %s: %s gives no verdict: %s", prepared.job.request_id, model.name, exc)
            return None
        return verdict

    async def _take(
        self,
        prepared: Prepared,
        request: ChatRequest,
        tenant: str,
        model: ServedModel,
        route: Route,
        found: Sequence[Passage],
    ) -> None:
        """Answer with this model by this route, from those of the passages found that are relevant enough.

        Where the route retrieves and none is, that is the answer, unless functions may bring what the documents lack.
        """
        hits: tuple[Passage, ...] = ()
        if route.kind.retrieves:
            threshold = self._search.least_score(request)
            hits = tuple(hit for hit in found if hit.score >= threshold)
            if not hits:
                # Not of the first hit: words and rerankers count in the order too.
                best = f"{max(hit.score for hit in found):.2f}" if found else "no hit"
                missing = f"nothing relevant was found (best score {best}, needed {threshold:.2f})"
                route = route._replace(reason=f"{route.reason}; {missing}")
                prepared.ready = await self._without_hits(request, tenant)
        prepared.model = model
        prepared.route = route
        prepared.job = replace(prepared.job, passages=hits, adapter=model.adapter)

    async def _without_hits(self, request: ChatRequest, tenant: str) -> str | None:
        """The answer where nothing relevant was found; None where a model is to give it."""
        if _brings_more(request):
            return None
        return STILL_READING if await self._search.is_reading(request, tenant) else NOTHING_FOUND

    async def _learned(self, prepared: Prepared, rule: Rule, tenant: str) -> Preset | None:
        """What the classifier of routes says of the question; None without one, or when it gives no route."""
        if rule.route_model is None:
            return None
        try:
            model = await self._catalogue.of(tenant).find(rule.route_model, ModelKind.CLASSIFIER)
            assert model.card is not None
            beginning = prepared.question[:MAX_QUERY_CHARS]
            with prepared.stages.measure("classify"):
                (verdict,) = await self._backends.classifier.classify(model.card, [(beginning,)])
        except (NotFound, Conflict, Unavailable) as exc:
            log.warning("request %s: %s gives no route: %s", prepared.job.request_id, rule.route_model, exc)
            return None
        label, score = verdict.scores[0]
        if label not in ANSWER_ROUTES:
            log.warning("%s says %r, which is none of %s", rule.route_model, label, ", ".join(ANSWER_ROUTES))
            return None
        return Preset(RouteKind(label), f"{rule.route_model} takes the question for {label} ({score:.2f})")

    async def _tuned_model(self, rule: Rule, tenant: str) -> ServedModel | None:
        if rule.tuned_model is None:
            return None
        try:
            return await self._catalogue.of(tenant).find(rule.tuned_model, ModelKind.GENERATOR)
        except (NotFound, Conflict):
            return None  # not trained yet, retired or not proven: the chain of the policy goes on without it


def _asked_for(request: ChatRequest) -> Preset | None:
    """The route that the caller wants, so that a conversation keeps the one it began with."""
    route = request.hamlet.route
    return None if route is None else Preset(RouteKind(route), "the route that was asked for")


def _brings_more(request: ChatRequest) -> bool:
    """Whether an answer can rest on functions: some may be called, or one has just been."""
    return request.tool_use is not None or request.messages[-1].role == "tool"


def _kind(tuned: bool, retrieves: bool) -> RouteKind:
    if retrieves:
        return RouteKind.TUNED_RAG if tuned else RouteKind.RAG
    return RouteKind.TUNED if tuned else RouteKind.PLAIN
