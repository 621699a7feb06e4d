"""The HTTP front: OpenAI's paths under `/v1`, health, and one handling of errors for all of them.

Built from plain asynchronous parts (`Backends`), so that the whole of it is tested without Ray.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, ExitStack, asynccontextmanager
from typing import Any, Protocol, TypeVar

import orjson
from fastapi import APIRouter, FastAPI, Request, Response
from fastapi_offline import FastAPIOffline
from starlette.middleware.cors import CORSMiddleware

from cluster.cards import ModelKind
from cluster.errors import HamletError, InvalidInput
from cluster.router_policy import AUTO, RAG_SUFFIX
from serving import cluster_api, openapi, page
from serving.admission import Admission
from serving.answer_schemas import (
    ChatCompletion,
    ClassificationList,
    EmbeddingList,
    Health,
    Model,
    ModelList,
    Ranking,
    Readiness,
    TextCompletion,
)
from serving.answers import Answers
from serving.authentication import DOCS_ASSETS, Authentication, Gate, tenant_of
from serving.backends import Backends, Classified, Embedded
from serving.body_limit import BodyLimit
from serving.catalogue import Catalogue, ServedModel, TenantCatalogue
from serving.chat import stream_chat, whole_answer
from serving.cluster_view import ClusterView, LocalView
from serving.completions import stream_text, text_jobs, whole_text
from serving.config import ServingConfig
from serving.error_handlers import add_error_handlers
from serving.generator import Spend
from serving.limits import UNITS, Allowance
from serving.metrics import Metrics, count_tokens
from serving.openapi import EVENT_STREAM, answers
from serving.platform import Platform
from serving.requests import REQUEST_ID_HEADER, RequestContext
from serving.reranking import Relevance, find_reranker, relevance
from serving.responses import Envelope, embeddings, model_object, ranking, usage
from serving.schemas import ChatRequest, CompletionRequest
from serving.sse import EventStream
from serving.text_requests import ClassifyRequest, EmbeddingRequest, RerankRequest
from serving.vector_store_search import VectorStoreSearch

Result = TypeVar("Result")
HEALTH_TIMEOUT_S = 5.0
READY = "ready"
# What a script of another origin may read of an answer, beside its body.
EXPOSED_HEADERS = (
    REQUEST_ID_HEADER,
    "retry-after",
    "x-should-retry",
    *(f"x-ratelimit-{what}-{unit}" for what in ("limit", "remaining", "reset") for unit in UNITS),
)
JUDGES = "Classify and rerank"
CHAT_ANSWERS = answers(ChatCompletion, **EVENT_STREAM)
TEXT_ANSWERS = answers(TextCompletion, **EVENT_STREAM)
READY_ANSWERS = answers(Readiness) | {503: {"model": Readiness, "description": "A part is not ready."}}


class Worker(Protocol):
    """Background work that goes on while the application runs."""

    def at_work(self) -> AbstractAsyncContextManager[None]:
        """The work is done while this is entered."""


class Front:
    """The endpoints of one application."""

    def __init__(
        self,
        config: ServingConfig,
        backends: Backends,
        catalogue: Catalogue,
        metrics: Metrics,
        stores: VectorStoreSearch | None,
    ) -> None:
        self.metrics = metrics
        self._backends = backends
        self._catalogue = catalogue
        self.stores = stores
        self._answers = Answers(config, backends, catalogue, stores)
        self.allowed_origins = config.router.allowed_origins
        router = config.router
        self.admission = Admission(router.max_waiting_requests, router.request_timeout_s)

    async def chat(self, body: ChatRequest, request: Request) -> Response:
        """An answer to a conversation; with `stream`, as server-sent events."""
        with ExitStack() as place:
            deadline = place.enter_context(self.admission.place())
            prepared = await deadline.bound(
                self._answers.prepare(body, _request_id(request), tenant_of(request)), request
            )
            envelope = Envelope(f"chatcmpl-{uuid.uuid4().hex}", int(time.time()), prepared.model.name)
            answer = self._backends, body, prepared, envelope, self.metrics, _spend(request)
            if body.stream:
                events = await deadline.bound(stream_chat(*answer, deadline), request)
                return EventStream(events, place.pop_all().close)
            return _json(await deadline.bound(whole_answer(*answer), request))

    async def complete(self, body: CompletionRequest, request: Request) -> Response:
        if body.model == AUTO or body.model.endswith(RAG_SUFFIX):
            raise InvalidInput(
                f"{body.model} answers chats; use /v1/chat/completions, or a model's own name here", "model"
            )
        with ExitStack() as place:
            deadline = place.enter_context(self.admission.place())
            model = await deadline.bound(self._names(request).find(body.model, ModelKind.GENERATOR), request)
            generator = self._backends.generator_of(model)
            envelope = Envelope(f"cmpl-{uuid.uuid4().hex}", int(time.time()), model.name)
            jobs = text_jobs(body, model, _request_id(request))
            if body.stream:
                events = await deadline.bound(
                    stream_text(generator, body, jobs[0], envelope, self.metrics, _spend(request), deadline),
                    request,
                )
                return EventStream(events, place.pop_all().close)
            text = whole_text(generator, body, jobs, envelope, self.metrics, _spend(request))
            return _json(await deadline.bound(text, request))

    async def embed(self, body: EmbeddingRequest, request: Request) -> Response:
        async def embedded() -> tuple[ServedModel, Embedded]:
            model = await self._names(request).find(body.model, ModelKind.EMBEDDER)
            return model, await self._backends.embedder.embed(body.texts)

        model, found = await self._computed(embedded, request)
        dimension = found.vectors.shape[1]
        if body.dimensions not in (None, dimension):
            raise InvalidInput(
                f"{model.name} has vectors of {dimension} dimensions, which cannot be shortened to "
                f"{body.dimensions}; leave dimensions out",
                "dimensions",
            )
        as_base64 = body.encoding_format == "base64"
        return self._counted(embeddings(model.name, found.vectors, found.num_tokens, as_base64), request)

    async def classify(self, body: ClassifyRequest, request: Request) -> Response:
        async def classified() -> tuple[ServedModel, list[Classified]]:
            model = await self._names(request).find(body.model, ModelKind.CLASSIFIER)
            assert model.card is not None
            _require_arity(body.texts, model)
            return model, await self._backends.classifier.classify(model.card, body.texts)

        model, verdicts = await self._computed(classified, request)
        return self._counted(_classification(model.name, verdicts), request)

    async def rerank(self, body: RerankRequest, request: Request) -> Response:
        async def ranked() -> tuple[ServedModel, Relevance]:
            model = await find_reranker(self._names(request), body.model)
            return model, await relevance(self._backends, model, body.query, body.documents)

        model, judged = await self._computed(ranked, request)
        envelope = Envelope(f"rerank-{uuid.uuid4().hex}", int(time.time()), model.name)
        return self._counted(
            ranking(envelope, judged, body.documents, body.top_n, body.return_documents), request
        )

    async def models(self, request: Request) -> Response:
        names = self._names(request)
        served = [_model(model) for model in await names.list()]
        aliases = [
            model_object(alias, 0, "hamlet", alias_of=card_id)
            for alias, card_id in (await names.aliases()).items()
        ]
        return _json({"object": "list", "data": [*served, *aliases, model_object(AUTO, 0, "hamlet")]})

    async def model(self, name: str, request: Request) -> Response:
        if name == AUTO:
            return _json(model_object(AUTO, 0, "hamlet"))
        names, plain = self._names(request), name.removesuffix(RAG_SUFFIX)
        found = await (names.named(name) if plain == name else names.find(plain, ModelKind.GENERATOR))
        return _json(_model(found) | {"id": name})

    async def healthz(self) -> Response:
        """That this process answers."""
        return _json({"status": "ok"})

    async def readyz(self) -> Response:
        """That every part answers; 503 names those that do not."""
        parts = await self.part_states()
        ready = all(state == READY for state in parts.values())
        body = {"status": "ready" if ready else "not ready", "parts": parts}
        return _json(body, 200 if ready else 503)

    async def part_states(self) -> dict[str, str]:
        """Of each part, READY or what is wrong with it."""
        checks = {
            **{name: generator.check_health() for name, generator in self._backends.generators.items()},
            "classifier": self._backends.classifier.check_health(),
            "embedder": self._backends.embedder.check_health(),
            "retriever": self._backends.retriever.check_health(),
        }
        states = await asyncio.gather(*map(_state, checks.values()))
        return dict(zip(checks, states, strict=True))

    def _names(self, request: Request) -> TenantCatalogue:
        return self._catalogue.of(tenant_of(request))

    def _counted(self, body: dict[str, Any], request: Request) -> Response:
        """A whole answer, its tokens counted and taken from the caller's allowance."""
        num_tokens = body["usage"]["total_tokens"]
        _spend(request)(num_tokens)
        count_tokens(self.metrics, body["model"], num_tokens)
        return _json(body)

    async def _computed(self, work: Callable[[], Awaitable[Result]], request: Request) -> Result:
        with self.admission.place() as deadline:
            return await deadline.bound(work(), request)


def create_app(
    front: Front,
    sets_request_id: bool = True,
    cluster_view: ClusterView | None = None,
    gate: Gate | None = None,
    platform: Platform | None = None,
    routers: Sequence[APIRouter] = (),
    workers: Sequence[Worker] = (),
) -> FastAPI:
    """The ASGI application over `front`; `sets_request_id` as in `RequestContext`.

    `cluster_view` tells what runs where; by default what runs in this process. `gate` decides who may call;
    by default everybody, as the tenant `default`. `platform` adds files, fine-tuning and models' aliases, whose
    background work goes on while the application runs; `routers` are further endpoints, `workers` further work.
    """
    # /docs and /redoc with their scripts from here: the usual ones load them from another host.
    app = FastAPIOffline(
        title="Hamlet",
        static_url=DOCS_ASSETS,
        generate_unique_id_function=openapi.operation_id,
        lifespan=_at_work([*([platform.conductor()] if platform else ()), *workers]),
    )
    openapi.describe(app)
    _add_routes(app, front)
    own = [cluster_api.router(cluster_view or LocalView()), page.router()]
    for router in [*own, *(platform.routers() if platform else ()), *routers]:
        # Not include_router, which makes each route a second time: half of what it takes to build the application.
        app.router.routes.extend(router.routes)
    add_error_handlers(app)
    app.add_middleware(BodyLimit)
    # The last one added is the outermost: refusals have a request id and a log line too.
    app.add_middleware(Authentication, gate=gate or Gate())
    app.add_middleware(RequestContext, metrics=front.metrics, sets_header=sets_request_id)
    if front.allowed_origins:
        # Around all others: browsers ask beforehand without a key, and keep from a page what lacks the header.
        app.add_middleware(
            CORSMiddleware,
            allow_origins=front.allowed_origins,
            allow_methods=["*"],
            allow_headers=["*"],
            allow_private_network=True,
            expose_headers=EXPOSED_HEADERS,
        )
    return app


def _add_routes(app: FastAPI, front: Front) -> None:
    """The endpoints of `front`: path, endpoint, method, and what the OpenAPI document says of each."""
    for path, endpoint, method, tag, summary, said in (
        ("/v1/chat/completions", front.chat, "POST", "Chat", "Create chat completion", CHAT_ANSWERS),
        ("/v1/completions", front.complete, "POST", "Completions", "Create completion", TEXT_ANSWERS),
        ("/v1/embeddings", front.embed, "POST", "Embeddings", "Create embeddings", answers(EmbeddingList)),
        ("/v1/classify", front.classify, "POST", JUDGES, "Classify texts", answers(ClassificationList)),
        ("/v1/rerank", front.rerank, "POST", JUDGES, "Rerank documents", answers(Ranking)),
        ("/v1/models", front.models, "GET", "Models", "List models", answers(ModelList)),
        ("/v1/models/{name:path}", front.model, "GET", "Models", "Retrieve model", answers(Model)),
        ("/healthz", front.healthz, "GET", "Cluster", "Check health", answers(Health)),
        ("/readyz", front.readyz, "GET", "Cluster", "Check readiness", READY_ANSWERS),
    ):
        app.add_api_route(path, endpoint, methods=[method], tags=[tag], summary=summary, responses=said)
    for path, endpoint in (("/healthz", front.healthz), ("/readyz", front.readyz)):
        # As load balancers and monitors ask; FastAPI, unlike Starlette, gives a GET no HEAD by itself.
        app.add_api_route(path, endpoint, methods=["HEAD"], include_in_schema=False)


def _at_work(workers: Sequence[Worker]) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            for worker in workers:
                await stack.enter_async_context(worker.at_work())
            yield

    return lifespan


def _request_id(request: Request) -> str:
    return str(request.state.request_id)


def _json(body: Any, status: int = 200) -> Response:
    return Response(orjson.dumps(body), status, media_type="application/json")


def _spend(request: Request) -> Spend:
    """What takes an answer's tokens from the caller's allowance."""
    allowance: Allowance = request.state.allowance
    return allowance.spend


async def _state(check: Awaitable[None]) -> str:
    try:
        async with asyncio.timeout(HEALTH_TIMEOUT_S):
            await check
    except HamletError as exc:
        return exc.message
    except TimeoutError:
        return f"no answer within {HEALTH_TIMEOUT_S:g} s"
    return READY


def _require_arity(inputs: list[tuple[str, ...]], model: ServedModel) -> None:
    wanted = 2 if model.card is not None and model.card.is_pair else 1
    for index, texts in enumerate(inputs):
        if len(texts) != wanted:
            takes = "pairs of texts" if wanted == 2 else "single texts"
            raise InvalidInput(
                f"input[{index}] has {len(texts)} text(s), {model.name} takes {takes}", f"input[{index}]"
            )


def _classification(model: str, verdicts: list[Classified]) -> dict[str, Any]:
    return {
        "object": "list",
        "data": [
            {
                "object": "classification",
                "index": index,
                "label": verdict.scores[0][0],
                "score": verdict.scores[0][1],
                "scores": dict(verdict.scores),
                "truncated": verdict.truncated,
            }
            for index, verdict in enumerate(verdicts)
        ],
        "model": model,
        "usage": usage(sum(verdict.num_tokens for verdict in verdicts), 0),
    }


def _model(model: ServedModel) -> dict[str, Any]:
    card = model.card
    if card is None:
        return model_object(model.name, 0, "hamlet", kind=model.kind.value)
    created = int(card.created_at.timestamp())
    return model_object(card.id, created, "hamlet", kind=model.kind.value, base_model=card.base_model)
