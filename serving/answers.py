"""From a chat request to what is generated: names, route, retrieval, and what is told about it.

Holds no state between requests: everything about one answer lives in its `Prepared`.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from cluster.cards import ModelKind
from cluster.errors import Conflict, InvalidInput, NotFound, Unavailable
from cluster.router_policy import ANSWER_ROUTES, AUTO, RAG_SUFFIX
from retrieval.store import unknown_collection
from serving.backends import Backends, Classified, SearchJob
from serving.catalogue import Catalogue, ServedModel
from serving.citations import cite
from serving.config import ServingConfig
from serving.errors import renamed
from serving.generator import GenerationJob, PromptReport
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
from serving.prompts import MAX_QUERY_CHARS, Passage, last_user_turn, standalone_query
from serving.reranking import find_reranker, relevance
from serving.responses import TextField, annotation
from serving.schemas import ChatRequest
from serving.stages import Stages
from serving.vector_store_index import COLLECTION_PREFIX
from serving.vector_store_search import Target, VectorStoreSearch, equality_filter

log = logging.getLogger(__name__)

NOTHING_FOUND = "I do not know: the documents say nothing about this."
STILL_READING = "I do not know yet: some of the documents are still being read. Ask again in a moment."

# What a search calls its fields, by the names that a chat sends them by.
SENT_AS_OPTIONS = {"collection": "hamlet.collection", "filters": "hamlet.filters"}
SENT_AS_TOOL = {"vector_store_id": "tools[0].vector_store_ids", "filters": "tools[0].filters"}


@dataclass(slots=True)
class Prepared:
    """One answer on its way.

    `ready` is the answer itself where no language model is needed: the verdict of a classifier, or that
    nothing was found. `verdict` are the classifier's probabilities, `reranker` the model that puts hits in order.
    `instead` answers where the deployment of `model` is down.
    """

    model: ServedModel
    route: Route
    job: GenerationJob
    stages: Stages
    question: str
    reranker: ServedModel | None = None
    ready: str | None = None
    verdict: Classified | None = None
    instead: Prepared | None = None

    @property
    def text_field(self) -> TextField:
        """Where the answer's text stands in a message: in `content` JSON alone is expected where it was asked for."""
        is_refusal = self.ready is not None and self.job.sampling.json_schema is not None
        return "refusal" if is_refusal else "content"

    def annotations(self, text: str, report: PromptReport) -> list[dict[str, Any]]:
        """Citations of one answer; only passages that were really sent can be cited."""
        sent = self.job.passages[: report.num_passages]
        return [annotation(citation, text, sent) for citation in cite(text, sent, self.question)]

    def extension(self, report: PromptReport) -> dict[str, Any]:
        """The `hamlet` object of the response."""
        sent = self.job.passages[: report.num_passages]
        extension: dict[str, Any] = {
            "route": self.route.kind.value,
            "reason": self.route.reason,
            "degraded": self.route.degraded,
            "stages": list(self.stages.ms),
            "stage_ms": self.stages.ms,
            "hits": [_hit(number, passage) for number, passage in enumerate(sent, start=1)],
            "dropped": {
                "hits": len(self.job.passages) - len(sent),
                "turns": report.num_turns_dropped,
            },
        }
        if self.verdict is not None:
            extension["verdict"] = dict(self.verdict.scores)
        return extension


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
        self._stores = stores

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
            reranker=await self._reranker(request, tenant),
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
        found = await self._search(prepared, request, tenant) if kind.retrieves else ()
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
        hits = await self._search_or_none(prepared, request, tenant) if searches else None
        best_score = None if hits is None else max((hit.score for hit in hits), default=-1.0)
        is_weak = preset is None and best_score is not None and best_score < rule.score_threshold
        if is_weak and await self._is_reading(request, tenant):
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
            threshold = self._least_score(request)
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
        return STILL_READING if await self._is_reading(request, tenant) else NOTHING_FOUND

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

    async def _search_or_none(
        self, prepared: Prepared, request: ChatRequest, tenant: str
    ) -> Sequence[Passage] | None:
        """Hits, best first; None when retrieval is down, none when nothing has been ingested yet."""
        try:
            return await self._search(prepared, request, tenant)
        except Unavailable:
            return None
        except NotFound:
            if request.hamlet.collection is not None or request.file_search is not None:
                raise
            return ()

    async def _search(self, prepared: Prepared, request: ChatRequest, tenant: str) -> Sequence[Passage]:
        query = standalone_query(prepared.job.messages)
        if not query.strip():
            at = last_user_turn(prepared.job.messages)
            raise InvalidInput(
                f"messages[{at}] is empty, and the documents are searched for what it asks",
                f"messages[{at}].content",
            )
        with prepared.stages.measure("embed"):
            embedded = await self._backends.embedder.embed([query], is_query=True)
        options, defaults, tool = request.hamlet, self._config.retriever, request.file_search
        reranker = prepared.reranker
        top_k = (tool.max_num_results if tool else None) or options.top_k or defaults.top_k
        sent_as = SENT_AS_TOOL if tool else SENT_AS_OPTIONS
        with prepared.stages.measure("search"):
            try:
                jobs = [
                    SearchJob(
                        collection=target.collection,
                        text=query,
                        vector=embedded.vectors[0],
                        fingerprint=embedded.fingerprint,
                        top_k=max(top_k, defaults.rerank_candidates) if reranker else top_k,
                        tenant=tenant,
                        filter=target.filter,
                    )
                    for target in await self._targets(request, tenant)
                ]
                hits = await self._found(jobs, known=tool is not None)
            except (NotFound, Conflict, InvalidInput) as exc:
                raise renamed(exc, sent_as) from exc
        if reranker is None or not hits:
            return hits
        with prepared.stages.measure("rerank"):
            return await self._reranked(reranker, query, hits, top_k)

    async def _reranker(self, request: ChatRequest, tenant: str) -> ServedModel | None:
        """The reranker that the request names. Raises NotFound, Conflict or InvalidInput for one that ranks nothing."""
        name = request.hamlet.rerank
        if name is None:
            return None
        return await find_reranker(self._catalogue.of(tenant), name, "hamlet.rerank")

    async def _targets(self, request: ChatRequest, tenant: str) -> Sequence[Target]:
        """Where to search: the stores that the request names, else one collection."""
        tool, options = request.file_search, request.hamlet
        if tool is None:
            collection = options.collection or self._config.retriever.collection
            if collection.startswith(COLLECTION_PREFIX):
                # What vector stores hold is searched by their ids; the name of a tenant is not to be tried out.
                raise unknown_collection(collection)
            return [Target(collection, equality_filter(options.filters or {}))]
        if self._stores is None:
            raise InvalidInput("this server has no vector stores", "tools[0]")
        return await self._stores.targets(tenant, tool.vector_store_ids, tool.filters)

    async def _found(self, jobs: Sequence[SearchJob], known: bool) -> Sequence[Passage]:
        """The hits of all jobs, best first. `known`: a collection may be missing, as no file has been read yet."""
        found: list[Passage] = []
        for job in jobs:
            try:
                found += await self._backends.retriever.search(job)
            except NotFound:
                if not known:
                    raise
        # One search has its own order, which words count in too; several meet by similarity.
        return found if len(jobs) == 1 else sorted(found, key=lambda hit: -hit.score)[: jobs[0].top_k]

    async def _is_reading(self, request: ChatRequest, tenant: str) -> bool:
        """Whether files of the stores that the request names are still being read."""
        tool = request.file_search
        if tool is None or self._stores is None:
            return False
        return bool(await self._stores.num_unread(tenant, tool.vector_store_ids))

    async def _reranked(
        self, reranker: ServedModel, query: str, hits: Sequence[Passage], top_k: int
    ) -> Sequence[Passage]:
        """The best hits in the reranker's order. Their scores stay cosines, so that a threshold keeps its meaning."""
        judged = await relevance(self._backends, reranker, query, [hit.text for hit in hits])
        return [hits[index] for index in judged.ranking(top_k)]

    def _least_score(self, request: ChatRequest) -> float:
        tool = request.file_search
        asked = tool.ranking_options.score_threshold if tool else None
        asked = request.hamlet.score_threshold if asked is None else asked
        return self._config.retriever.least_score if asked is None else asked


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


def _hit(number: int, passage: Passage) -> dict[str, Any]:
    return {
        "index": number,
        "file_id": passage.document_id,
        "filename": passage.filename,
        "chunk_id": passage.chunk_id,
        "page": passage.page,
        "score": round(passage.score, 4),
        "text": passage.text,
    }
