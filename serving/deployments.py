"""The parts as Serve deployments: thin shells that load in the replica and pass calls on.

`ping` answers the router's readiness check; `check_health` answers Serve, which replaces a replica that
fails it.
"""

from __future__ import annotations

import importlib.util
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

from ray.serve.handle import DeploymentHandle

from cluster.cards import ModelCard
from cluster.logs import set_up_logging
from cluster.references import resolve_model
from cluster.registry import Registry
from cluster.settings import settings
from serving import handles
from serving.api import Front, create_app
from serving.backends import Classified, Embedded, SearchJob
from serving.catalogue import Catalogue, Snapshot
from serving.classifier import Classifier
from serving.config import (
    ClassifierConfig,
    EmbedderConfig,
    GeneratorConfig,
    ServingConfig,
)
from serving.embedder import Embedder
from serving.engine import Delta, GenerationEngine
from serving.generator import Completion, GenerationJob, Generator, PromptReport
from serving.metrics import ServeMetrics
from serving.prompts import Passage
from serving.retriever import Retriever
from serving.threads import use_threads
from serving.tokenizer import HubTokenizer, PromptRenderer


class GeneratorDeployment:
    """One engine with its base model."""

    def __init__(self, config: GeneratorConfig) -> None:
        set_up_logging(settings().log_level)
        folder = resolve_model(config.model)
        engine: GenerationEngine
        if engine_name(config) == "vllm":
            from serving.vllm_engine import VllmEngine

            engine = VllmEngine(config, folder)
        else:
            from serving.transformers_engine import TransformersEngine

            use_threads(config.num_threads)
            engine = TransformersEngine(config, folder)
        self._generator = Generator(config, engine, PromptRenderer(HubTokenizer(folder)))

    async def run(self, job: GenerationJob) -> AsyncGenerator[PromptReport | Completion]:
        async with aclosing(self._generator.run(job)) as events:
            async for event in events:
                yield event

    async def stream(self, job: GenerationJob) -> AsyncGenerator[PromptReport | list[Delta]]:
        async with aclosing(self._generator.stream(job)) as events:
            async for event in events:
                yield event

    async def ping(self) -> None:
        await self._generator.check_health()

    async def check_health(self) -> None:
        await self._generator.check_health()

    async def __del__(self) -> None:
        # Not there when the constructor failed.
        if hasattr(self, "_generator"):
            await self._generator.close()


class ClassifierDeployment:
    """Registered classifiers, on demand."""

    def __init__(self, config: ClassifierConfig) -> None:
        set_up_logging(settings().log_level)
        use_threads(config.num_threads)
        self._classifier = Classifier(config)

    async def classify(self, card: ModelCard, inputs: Sequence[tuple[str, ...]]) -> list[Classified]:
        return await self._classifier.classify(card, inputs)

    async def ping(self) -> None:
        await self._classifier.check_health()


class EmbedderDeployment:
    """The sentence embedder."""

    def __init__(self, config: EmbedderConfig) -> None:
        set_up_logging(settings().log_level)
        use_threads(config.num_threads)
        self._embedder = Embedder(config)

    async def embed(self, texts: Sequence[str], is_query: bool = False) -> Embedded:
        return await self._embedder.embed(texts, is_query)

    async def ping(self) -> None:
        await self._embedder.check_health()


class RetrieverDeployment:
    """Search in the vector store."""

    def __init__(self) -> None:
        set_up_logging(settings().log_level)
        self._retriever = Retriever()

    async def search(self, job: SearchJob) -> list[Passage]:
        return await self._retriever.search(job)

    async def ping(self) -> None:
        await self._retriever.check_health()


class RouterDeployment:
    """The HTTP front over the handles of the other parts."""

    def __init__(
        self,
        config: ServingConfig,
        generator: DeploymentHandle,
        classifier: DeploymentHandle,
        embedder: DeploymentHandle,
        retriever: DeploymentHandle,
    ) -> None:
        set_up_logging(settings().log_level)
        registry = Registry()
        catalogue = Catalogue(
            config.generator.model,
            config.embedder.model,
            lambda: Snapshot(registry.list(), registry.aliases()),
            config.router.catalogue_ttl_s,
        )
        parts = handles.backends(
            generator,
            classifier,
            embedder,
            retriever,
            config.router.part_timeout_s,
        )
        self._front = Front(config, parts, catalogue, metrics=ServeMetrics())

    def __serve_build_asgi_app__(self) -> Any:
        """Called by Serve in the replica, after the constructor."""
        return create_app(self._front, sets_request_id=False)


def engine_name(config: GeneratorConfig) -> str:
    """`vllm` or `transformers`: what the configuration asks for, or what is installed."""
    if config.engine != "auto":
        return config.engine
    return "vllm" if importlib.util.find_spec("vllm") else "transformers"
