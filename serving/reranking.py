"""How well texts answer a question: by a classifier that reads both together, or by the embedder's cosine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cluster.cards import ModelKind
from cluster.errors import Conflict, InvalidInput, NotFound
from retrieval.rerank import positive_class
from retrieval.vectorizer import renumbered
from serving.backends import Backends
from serving.catalogue import ServedModel, TenantCatalogue


@dataclass(frozen=True, slots=True)
class Relevance:
    """`scores`: [num_texts], higher is better, comparable within one question and model."""

    scores: tuple[float, ...]
    num_tokens: int

    def ranking(self, top_n: int | None = None) -> list[int]:
        """Positions of the texts, best first; equal ones in the order in which they came."""
        return sorted(range(len(self.scores)), key=lambda index: -self.scores[index])[:top_n]


async def find_reranker(catalogue: TenantCatalogue, name: str, param: str = "model") -> ServedModel:
    """A pair classifier or the embedder; `param` is the request's field that names it.

    Raises NotFound, Conflict, or InvalidInput for a model that ranks nothing.
    """
    try:
        return await _found(catalogue, name)
    except (NotFound, Conflict, InvalidInput) as exc:
        raise type(exc)(exc.message, param, exc.code) from exc


async def _found(catalogue: TenantCatalogue, name: str) -> ServedModel:
    try:
        model = await catalogue.find(name, ModelKind.CLASSIFIER)
    except NotFound:
        return await catalogue.find(name, ModelKind.EMBEDDER)
    if model.card is None or not model.card.is_pair:
        raise InvalidInput(
            f"{model.name} classifies single texts; rank with a classifier of pairs, "
            f"or with {catalogue.embedder.name}"
        )
    return model


async def relevance(backends: Backends, model: ServedModel, query: str, texts: Sequence[str]) -> Relevance:
    """The relevance of each text: the probability of the classifier's positive class, or the cosine.

    Raises InvalidInput for a text that is longer than the embedder reads, which is called `documents[index]`.
    """
    if model.card is None:
        question = await backends.embedder.embed([query], is_query=True)
        try:
            embedded = await backends.embedder.embed(texts)
        except InvalidInput as exc:
            raise renumbered(exc, range(len(texts)), "documents") from exc
        cosines = embedded.vectors @ question.vectors[0]
        return Relevance(tuple(cosines.tolist()), question.num_tokens + embedded.num_tokens)
    verdicts = await backends.classifier.classify(model.card, [(query, text) for text in texts])
    positive = model.card.labels[positive_class(model.card.labels)]
    scores = tuple(dict(verdict.scores)[positive] for verdict in verdicts)
    return Relevance(scores, sum(verdict.num_tokens for verdict in verdicts))
