"""A whole application of scripted parts: the HTTP front without Ray, models or a network, for tests.

application = ScriptedApplication(engine=ScriptedEngine(["Hello"]))
client = TestClient(application.app)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cluster.cards import ModelCard
from cluster.errors import ContextLengthExceeded, HamletError, NotFound
from serving.api import Front, create_app, single_tenant
from serving.backends import Backends, Classified, Embedded, SearchJob
from serving.catalogue import Catalogue, Snapshot
from serving.config import ServingConfig
from serving.generator import Generator
from serving.metrics import CountedMetrics
from serving.prompts import Passage
from serving.scripted_engine import ScriptedEngine, WordTokenizer
from serving.tokenizer import PromptRenderer

MAX_WORDS = 50


def scripted_passage(number: int, text: str, score: float = 0.8, filename: str | None = None) -> Passage:
    """Passage `number` of a document of its own."""
    return Passage(f"chunk-{number}", f"doc-{number}", filename or f"doc-{number}.md", text, score)


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
        return Embedded(np.array(rows, dtype=np.float32), sum(len(text.split()) for text in texts))

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
    """Equivalent when both texts of a pair are equal, else different."""

    async def classify(self, card: ModelCard, inputs: Sequence[tuple[str, ...]]) -> list[Classified]:
        verdicts = []
        for texts in inputs:
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
    embedder: ScriptedEmbedder = field(default_factory=ScriptedEmbedder)
    retriever: ScriptedRetriever = field(default_factory=ScriptedRetriever)
    classifier: ScriptedClassifier = field(default_factory=ScriptedClassifier)
    tokenizer: WordTokenizer = field(default_factory=WordTokenizer)
    cards: list[ModelCard] = field(default_factory=list)
    aliases: dict[str, str] = field(default_factory=dict)
    tenant_of: Callable[[Any], str] = single_tenant
    metrics: CountedMetrics = field(default_factory=CountedMetrics)

    @property
    def front(self) -> Front:
        generator = Generator(self.config.generator, self.engine, PromptRenderer(self.tokenizer))
        catalogue = Catalogue(
            self.config.generator.model,
            self.config.embedder.model,
            lambda: Snapshot(list(self.cards), dict(self.aliases)),
            ttl_s=0,
        )
        backends = Backends(generator, self.classifier, self.embedder, self.retriever)
        return Front(self.config, backends, catalogue, self.tenant_of, self.metrics)

    @property
    def app(self) -> Any:
        return create_app(self.front)

    def prompt(self, number: int = -1) -> str:
        """The text of a prompt that the engine was given."""
        return self.tokenizer.decode(self.engine.prompts[number])
