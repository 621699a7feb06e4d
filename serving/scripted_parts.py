"""A whole application of scripted parts: the HTTP front without Ray, models or a network, for tests.

application = ScriptedApplication(engine=ScriptedEngine(["Hello"]))
client = TestClient(application.app)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np

from cluster.cards import ModelCard, ModelKind, Parity
from cluster.errors import ContextLengthExceeded, HamletError, NotFound
from cluster.files import Files
from cluster.registry import Registry
from cluster.router_policy import RouterPolicy
from cluster.vector_store_queue import VectorStoreQueue
from cluster.vector_stores import VectorStores
from retrieval.client import AsyncCollections, CollectionsClient
from retrieval.exact_store import ExactStore
from retrieval.owner import InProcess
from retrieval.service import Collections
from retrieval.vectorizer import EmbedderInfo, HashEmbedder
from serving import vector_stores_api
from serving.api import Front, create_app
from serving.authentication import Gate
from serving.backends import (
    Backends,
    Classified,
    Embedded,
    EmbedderBackend,
    RetrieverBackend,
    SearchJob,
)
from serving.batch_work import BatchWork
from serving.catalogue import Catalogue, Snapshot, snapshot_of
from serving.config import ServingConfig
from serving.embedder import Embedder
from serving.generator import Generator
from serving.metrics import CountedMetrics
from serving.platform import Platform
from serving.prompts import Passage
from serving.retriever import Retriever
from serving.router_count import router_count
from serving.scripted_engine import ScriptedEngine, WordTokenizer
from serving.tokenizer import PromptRenderer
from serving.vector_store_search import VectorStoreSearch
from serving.vector_store_verbs import VectorStoreVerbs
from serving.vector_store_work import LEASE_S, VectorStoreWork

MAX_WORDS = 50


def scripted_passage(number: int, text: str, score: float = 0.8, filename: str | None = None) -> Passage:
    """Passage `number` of a document of its own."""
    return Passage(f"chunk-{number}", f"doc-{number}", filename or f"doc-{number}.md", text, score)


def scripted_card(card_id: str) -> ModelCard:
    """A registered LoRA adapter on the default base."""
    return ModelCard(
        id=card_id,
        kind=ModelKind.GENERATOR,
        base_model="builtin:smollm2",
        weights_uri="/weights",
        is_adapter=True,
        lora_rank=8,
        max_length_tokens=512,
        config_sha256="0",
        data_sha256="0",
        code_version="0",
        parity=Parity(passed=True, max_metric_difference=0.0),
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
    )


@dataclass
class ScriptedEmbedder:
    """Vectors of 4 numbers made of the text's length; refuses documents of more than MAX_WORDS words."""

    failure: HamletError | None = None
    texts: list[str] = field(default_factory=list)

    async def embed(self, texts: Sequence[str], is_query: bool = False) -> Embedded:
        if self.failure:
            raise self.failure
        self.texts += texts
        for index, text in enumerate(texts):
            if not is_query and len(text.split()) > MAX_WORDS:
                raise ContextLengthExceeded(f"input[{index}] is too long", f"input[{index}]")
        rows = [[float(len(text)), 0.5, -0.25, 1.0] for text in texts]
        counts = tuple(len(text.split()) for text in texts)
        return Embedded(np.array(rows, dtype=np.float32), counts, "scripted")

    async def describe(self) -> EmbedderInfo:
        hashed = HashEmbedder()
        return EmbedderInfo("scripted", "scripted", 4, MAX_WORDS, 0, hashed.tokenizer.to_str())

    async def check_health(self) -> None:
        if self.failure:
            raise self.failure


@dataclass
class ScriptedRetriever:
    """Passages by tenant, or by what a function makes of a job."""

    by_tenant: dict[str, list[Passage]] = field(default_factory=dict)
    answer: Callable[[SearchJob], list[Passage]] | None = None
    failure: HamletError | None = None
    jobs: list[SearchJob] = field(default_factory=list)

    async def search(self, job: SearchJob) -> list[Passage]:
        self.jobs.append(job)
        if self.failure:
            raise self.failure
        if job.collection == "missing":
            raise NotFound("no collection 'missing'", "collection", "collection_not_found")
        found = self.answer(job) if self.answer else self.by_tenant.get(job.tenant, [])
        return found[: job.top_k]

    async def check_health(self) -> None:
        if self.failure:
            raise self.failure


@dataclass
class ScriptedClassifier:
    """Equivalent when both texts of a pair are equal, else different; a single text has the label it was given."""

    labels: dict[str, str] = field(default_factory=dict)
    failure: HamletError | None = None

    async def classify(self, card: ModelCard, inputs: Sequence[tuple[str, ...]]) -> list[Classified]:
        if self.failure:
            raise self.failure
        verdicts = []
        for texts in inputs:
            if len(texts) == 1 and texts[0] in self.labels:
                verdicts.append(Classified(((self.labels[texts[0]], 0.9),), len(texts[0].split()), False))
                continue
            same = 0.9 if len(set(texts)) == 1 else 0.2
            scores = sorted((("equivalent", same), ("different", 1 - same)), key=lambda entry: -entry[1])
            verdicts.append(Classified(tuple(scores), sum(len(text.split()) for text in texts), False))
        return verdicts

    async def check_health(self) -> None:
        pass


@dataclass
class ScriptedApplication:
    """Everything behind one front; a test changes what it needs before it asks for `app`."""

    config: ServingConfig = field(default_factory=ServingConfig)
    engine: ScriptedEngine = field(default_factory=ScriptedEngine)
    further_engines: dict[str, ScriptedEngine] = field(default_factory=dict)  # by their deployments' names
    embedder: EmbedderBackend = field(default_factory=ScriptedEmbedder)
    retriever: RetrieverBackend = field(default_factory=ScriptedRetriever)
    classifier: ScriptedClassifier = field(default_factory=ScriptedClassifier)
    tokenizer: WordTokenizer = field(default_factory=WordTokenizer)
    cards: list[ModelCard] = field(default_factory=list)
    aliases: dict[str, str] = field(default_factory=dict)
    gate: Gate = field(default_factory=Gate)
    metrics: CountedMetrics = field(default_factory=CountedMetrics)
    platform: Platform | None = None
    policy: RouterPolicy | None = None
    collections: Collections = field(default_factory=lambda: Collections(ExactStore()))

    @property
    def front(self) -> Front:
        return self._front(None)

    @property
    def app(self) -> Any:
        """With a platform, also its endpoints and those of vector stores."""
        if self.platform is None:
            return create_app(self.front, gate=self.gate)
        engine = self.platform.engine
        front = self._front(VectorStores(engine))
        assert front.stores is not None
        verbs = VectorStoreVerbs(front.stores, Files(engine), VectorStoreQueue(engine), self.embedder)
        routers = [vector_stores_api.router(verbs, front.admission)]
        batches = BatchWork.of(engine, front, self.gate, self.config.batches)
        counted = router_count(engine, self.gate.limits)
        return create_app(
            front, gate=self.gate, platform=self.platform, routers=routers, workers=[batches, counted]
        )

    def search_for_real(self) -> None:
        """Embed by words and search the collections of this application, instead of what is scripted."""
        self.embedder = Embedder(self.config.embedder, lambda _: HashEmbedder())
        self.retriever = Retriever(AsyncCollections(InProcess(self.collections)))

    def worker(self, lease_s: float = LEASE_S) -> VectorStoreWork:
        """What reads the files of vector stores; embeds as `search_for_real` does."""
        assert self.platform is not None
        engine = self.platform.engine
        collections = CollectionsClient(InProcess(self.collections))
        return VectorStoreWork(VectorStoreQueue(engine), Files(engine), collections, HashEmbedder(), lease_s)

    def _front(self, stores: VectorStores | None) -> Front:
        generators = {
            name: Generator(
                config, self.further_engines.get(name, self.engine), PromptRenderer(self.tokenizer)
            )
            for name, config in self.config.generators.items()
        }
        catalogue = Catalogue(
            {name: config.model for name, config in self.config.generators.items()},
            self.config.embedder.model,
            self._registered,
            ttl_s=0,
        )
        backends = Backends(generators, self.classifier, self.embedder, self.retriever)
        search = None
        if stores is not None:
            collections = AsyncCollections(InProcess(self.collections))
            search = VectorStoreSearch(stores, backends, catalogue, lambda: collections)
        return Front(self.config, backends, catalogue, self.metrics, search)

    def _registered(self) -> Snapshot:
        """The cards of the test, and those in the registry where there is one."""
        if self.platform is None:
            return Snapshot(list(self.cards), dict(self.aliases), policy=self.policy)
        return snapshot_of(Registry(self.platform.engine))

    def prompt(self, number: int = -1) -> str:
        """The text of a prompt that the engine was given."""
        return self.tokenizer.decode(self.engine.prompts[number])
