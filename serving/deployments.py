"""The parts as Serve deployments: thin shells that load in the replica and pass calls on.

`ping` answers the router's readiness check; `check_health` answers Serve, which replaces a replica that
fails it.
"""

from __future__ import annotations

import importlib.util
import logging
import threading
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Any

import ray
from ray import serve
from ray.serve.handle import DeploymentHandle
from sqlalchemy.engine import Engine

from cluster.api_keys import ApiKeys
from cluster.audit_log import AuditLog
from cluster.cards import ModelCard, ModelKind
from cluster.database import open_database
from cluster.errors import ConfigError, Unavailable
from cluster.files import Files
from cluster.process import set_up_process
from cluster.references import resolve_model
from cluster.registry import Registry
from cluster.vector_store_queue import VectorStoreQueue
from cluster.vector_stores import VectorStores
from retrieval.owner import async_collections, open_collections
from retrieval.vectorizer import EmbedderInfo
from serving import handles, vector_stores_api
from serving.api import Front, create_app
from serving.authentication import Gate, Keyring
from serving.backends import Classified, Embedded, SearchJob
from serving.batch_work import BatchWork
from serving.batching import OnBatch
from serving.catalogue import Catalogue, snapshot_of
from serving.channel import Event, Outbox, ReplyTo
from serving.classifier import Classifier
from serving.config import (
    ClassifierConfig,
    EmbedderConfig,
    GeneratorConfig,
    IngesterConfig,
    ServingConfig,
)
from serving.embedder import Embedder
from serving.engine import GenerationEngine
from serving.generator import GenerationJob, Generator
from serving.limits import Limits
from serving.metrics import ServeMetrics
from serving.platform import Platform
from serving.promoted import PromotedPolicy
from serving.prompts import Passage
from serving.ray_view import RayView
from serving.retriever import Retriever
from serving.router_count import router_count
from serving.threads import set_thread_variable, use_threads
from serving.tokenizer import HubTokenizer, PromptRenderer
from serving.tracing import continued, set_up_tracing
from serving.vector_store_search import VectorStoreSearch
from serving.vector_store_verbs import VectorStoreVerbs
from serving.vector_store_work import VectorStoreWork

log = logging.getLogger(__name__)


class GeneratorDeployment:
    """One engine with its base model."""

    def __init__(self, config: GeneratorConfig) -> None:
        _set_up_process()
        require_whole_model(config.model)
        folder = resolve_model(config.model)
        engine: GenerationEngine
        if engine_name(config) == "vllm":
            from serving.vllm_engine import VllmEngine

            engine = VllmEngine(config, folder, ServeMetrics())
        else:
            from serving.transformers_engine import TransformersEngine

            use_threads(config.num_threads)
            engine = TransformersEngine(config, folder)
        self._generator = Generator(config, engine, PromptRenderer(HubTokenizer(folder)))
        self._outbox = Outbox()

    @continued
    async def run(self, job: GenerationJob, reply_to: ReplyTo) -> int:
        """Send the report and the whole completion; returns the number of events sent."""
        return await self._send_all(self._generator.run(job), reply_to)

    @continued
    async def stream(self, job: GenerationJob, reply_to: ReplyTo) -> int:
        """Send the report and each step's deltas; returns the number of events sent."""
        return await self._send_all(self._generator.stream(job), reply_to)

    async def _send_all(self, generation: AsyncGenerator[Event], reply_to: ReplyTo) -> int:
        num_sent = 0
        async with aclosing(generation) as events:
            async for event in events:
                await self._outbox.send(reply_to, event)
                num_sent += 1
        return num_sent

    async def ping(self) -> None:
        await self._generator.check_health()

    async def check_health(self) -> None:
        await self._generator.check_health()

    async def __del__(self) -> None:
        # Not there when the constructor failed.
        if hasattr(self, "_generator"):
            await self._outbox.close()
            await self._generator.close()


class ClassifierDeployment:
    """Registered classifiers, on demand."""

    def __init__(self, config: ClassifierConfig) -> None:
        _set_up_process()
        use_threads(config.num_threads)
        self._classifier = Classifier(config, _batch_sizes())

    @continued
    async def classify(self, card: ModelCard, inputs: Sequence[tuple[str, ...]]) -> list[Classified]:
        return await self._classifier.classify(card, inputs)

    async def ping(self) -> None:
        await self._classifier.check_health()


class EmbedderDeployment:
    """The sentence embedder."""

    def __init__(self, config: EmbedderConfig) -> None:
        _set_up_process()
        set_thread_variable(config.num_threads)
        self._embedder = Embedder(config, on_batch=_batch_sizes())

    @continued
    async def embed(self, texts: Sequence[str], is_query: bool = False) -> Embedded:
        return await self._embedder.embed(texts, is_query)

    @continued
    async def describe(self) -> EmbedderInfo:
        return await self._embedder.describe()

    async def ping(self) -> None:
        await self._embedder.check_health()


class RetrieverDeployment:
    """Search in the vector store."""

    def __init__(self) -> None:
        _set_up_process()
        self._retriever = Retriever()

    @continued
    async def search(self, job: SearchJob) -> list[Passage]:
        return await self._retriever.search(job)

    async def ping(self) -> None:
        await self._retriever.check_health()


class IngesterDeployment:
    """Reads the files of vector stores, in threads that go on while the replica lives."""

    def __init__(self, config: IngesterConfig, embedder: DeploymentHandle) -> None:
        _set_up_process()
        self._embedder = embedder
        self._stop = threading.Event()
        self._engine = open_database()
        self._threads = [
            threading.Thread(target=self._work, name=f"ingester-{number}", daemon=True)
            for number in range(config.num_workers)
        ]
        for thread in self._threads:
            thread.start()

    def _work(self) -> None:
        encoder = None
        while encoder is None and not self._stop.is_set():
            try:
                encoder = handles.EmbedderCalls(self._embedder)
            except Unavailable:
                self._stop.wait(1.0)  # it is being loaded, or replaced
        if encoder is not None:
            queue, files = VectorStoreQueue(self._engine), Files(self._engine)
            with open_collections() as collections:
                VectorStoreWork(queue, files, collections, encoder).run(self._stop)

    async def check_health(self) -> None:
        if not all(thread.is_alive() for thread in self._threads):
            raise Unavailable("a thread that reads files has ended")

    def __del__(self) -> None:
        # Not there when the constructor failed.
        if hasattr(self, "_stop"):
            self._stop.set()


class RouterDeployment:
    """The HTTP front over the handles of the other parts."""

    def __init__(
        self,
        config: ServingConfig,
        generators: Mapping[str, DeploymentHandle],
        classifier: DeploymentHandle,
        embedder: DeploymentHandle,
        retriever: DeploymentHandle,
        _ingester: DeploymentHandle,  # works by itself; bound so that it is deployed
    ) -> None:
        _set_up_process()
        self._platform = Platform.of(config)
        registry, promoted = Registry(self._platform.engine), PromotedPolicy()
        catalogue = Catalogue(
            {name: generator.model for name, generator in config.generators.items()},
            config.embedder.model,
            lambda: snapshot_of(registry, promoted.read()),
            config.router.catalogue_ttl_s,
        )
        parts = handles.backends(
            config, generators, classifier, embedder, retriever, host=ray.util.get_node_ip_address()
        )
        engine = self._platform.engine
        search = VectorStoreSearch(VectorStores(engine), parts, catalogue, async_collections)
        self._verbs = VectorStoreVerbs(search, Files(engine), VectorStoreQueue(engine), parts.embedder)
        self._front = Front(config, parts, catalogue, metrics=ServeMetrics(), stores=search)
        self._gate = _gate(config, engine)
        self._batches = BatchWork.of(engine, self._front, self._gate, config.batches)

    def __serve_build_asgi_app__(self) -> Any:
        """Called by Serve in the replica, after the constructor."""
        return create_app(
            self._front,
            sets_request_id=False,
            cluster_view=RayView(),
            gate=self._gate,
            platform=self._platform,
            routers=[vector_stores_api.router(self._verbs, self._front.admission)],
            workers=[self._batches, router_count(self._platform.engine, self._gate.limits)],
        )


def _gate(config: ServingConfig, engine: Engine) -> Gate:
    """Who may call this application, by the keys of the database."""
    keys = ApiKeys(engine)
    gate = Gate(
        Keyring(keys.list, config.router.keys_ttl_s),
        Limits(config.limits, config.router.max_replicas),  # so many at most, until they are counted
        AuditLog(engine).add,
        _listening_host(),
        config.router.allow_no_keys,
    )
    if not keys.list():
        log.warning("%s", gate.without_keys)
    return gate


def _listening_host() -> str:
    """The address that Serve's proxy listens on. Serve tells it to nobody but its own client."""
    from ray.serve.context import _get_global_client

    return str(_get_global_client().http_config.host or "127.0.0.1")


def _batch_sizes() -> OnBatch:
    """Observes the batches of this replica."""
    metrics = ServeMetrics()
    return lambda size: metrics.observe("batch_size", {}, size)


def _set_up_process() -> None:
    """What every replica begins with."""
    set_up_process()
    set_up_tracing(serve.get_replica_context().deployment)


def require_whole_model(reference: str) -> None:
    """Raises ConfigError for a registered model that does not stand by itself."""
    if not reference.startswith("ft:"):
        return
    card = Registry().get(reference)
    if card.is_adapter or card.kind is not ModelKind.GENERATOR:
        what = "an adapter, which its base's generator loads" if card.is_adapter else f"of kind {card.kind}"
        raise ConfigError(f"{reference} cannot be a generator's model: it is {what}", "model")


def engine_name(config: GeneratorConfig) -> str:
    """`vllm` or `transformers`: what the configuration asks for, or what is installed."""
    if config.engine != "auto":
        return config.engine
    return "vllm" if importlib.util.find_spec("vllm") else "transformers"
