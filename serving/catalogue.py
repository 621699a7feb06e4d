"""Which models can be asked for by which name.

A name is the base model (by reference or by slug), the embedder, a registered card or an alias. Cards
are read from the registry and kept for about a second, so that a model registered, promoted or deleted
at run time is noticed without a restart; a name that is not known yet is looked up afresh at once.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from cluster.cards import ModelCard, ModelKind, slug
from cluster.errors import Conflict, NotFound
from serving.engine import Adapter

AUTO = "auto"
RAG_SUFFIX = "+rag"


class Snapshot(NamedTuple):
    """The registry at one moment. `aliases` map a name to a card id."""

    cards: list[ModelCard]
    aliases: dict[str, str]


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model that answers. `card` is None for the base models that the configuration names."""

    name: str
    kind: ModelKind
    card: ModelCard | None = None

    @property
    def adapter(self) -> Adapter | None:
        """What the engine loads onto its base for this model."""
        if self.card is None or self.kind is not ModelKind.GENERATOR:
            return None
        return Adapter(self.card.id, self.card.weights_uri, self.card.lora_rank or 0, self.card.chat_template)


class Catalogue:
    """Names to models, for one application."""

    def __init__(
        self,
        generator: str,
        embedder: str,
        read: Callable[[], Snapshot],
        ttl_s: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._generator = generator
        self._embedder = embedder
        self._read = read
        self._ttl_s = ttl_s
        self._clock = clock
        self._snapshot = Snapshot([], {})
        self._read_at: float | None = None
        self._lock = asyncio.Lock()

    @property
    def base(self) -> ServedModel:
        return ServedModel(slug(self._generator), ModelKind.GENERATOR)

    @property
    def embedder(self) -> ServedModel:
        return ServedModel(slug(self._embedder), ModelKind.EMBEDDER)

    async def find(self, name: str, kind: ModelKind) -> ServedModel:
        """The model of this name and kind.

        Raises NotFound for a name nobody knows, one of another kind, or one whose base is not deployed,
        and Conflict for a card whose parity was not proven.
        """
        for base, reference in ((self.base, self._generator), (self.embedder, self._embedder)):
            if name in (base.name, reference):
                return self._of_kind(base, kind, name)
        snapshot = await self._current()
        card = _card(name, snapshot)
        if card is None:
            snapshot = await self._current(refresh=True)
            card = _card(name, snapshot)
        if card is None:
            known = ", ".join(model.name for model in await self.list())
            raise NotFound(f"no model named {name!r}; there are {known}", "model", "model_not_found")
        self._require_servable(card)
        return self._of_kind(ServedModel(card.id, card.kind, card), kind, name)

    async def list(self) -> list[ServedModel]:
        """Everything that can be asked for: the bases, then cards, newest first."""
        snapshot = await self._current()
        served = [
            ServedModel(card.id, card.kind, card)
            for card in snapshot.cards
            if card.parity.passed and self._unservable(card) is None
        ]
        return [self.base, self.embedder, *served]

    async def aliases(self) -> dict[str, str]:
        """Alias to card id."""
        return (await self._current()).aliases

    async def pair_classifier(self) -> ServedModel | None:
        """The newest registered classifier of sentence pairs."""
        return next((m for m in await self.list() if m.card is not None and m.card.is_pair), None)

    async def _current(self, refresh: bool = False) -> Snapshot:
        asked_at = self._clock()
        async with self._lock:
            fresh = self._read_at is not None and asked_at < self._read_at + (0 if refresh else self._ttl_s)
            if not fresh:
                read_at = self._clock()
                self._snapshot = await asyncio.to_thread(self._read)
                self._read_at = read_at
            return self._snapshot

    def _of_kind(self, model: ServedModel, kind: ModelKind, name: str) -> ServedModel:
        if model.kind is not kind:
            raise NotFound(
                f"{name!r} names a model of kind {model.kind}, this endpoint needs {kind}",
                "model",
                "model_not_found",
            )
        return model

    def _unservable(self, card: ModelCard) -> str | None:
        if card.kind is ModelKind.CLASSIFIER:
            return None
        if card.kind is ModelKind.EMBEDDER:
            return f"it is an embedder; deploy it with embedder.model: {card.id}"
        if not card.is_adapter:
            return f"it is a whole model; deploy it with generator.model: {card.id}"
        if slug(card.base_model) != slug(self._generator):
            return f"its base {card.base_model} is not deployed (deployed: {self._generator})"
        return None

    def _require_servable(self, card: ModelCard) -> None:
        if not card.parity.passed:
            raise Conflict(f"{card.id} is not served: its parity check failed: {card.parity.detail}", "model")
        reason = self._unservable(card)
        if reason is not None:
            raise NotFound(f"{card.id} is registered but not served: {reason}", "model", "model_not_found")


def _card(name: str, snapshot: Snapshot) -> ModelCard | None:
    card_id = snapshot.aliases.get(name, name)
    return next((card for card in snapshot.cards if card.id == card_id), None)
