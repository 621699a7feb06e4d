"""Which models can be asked for by which name.

A name is a base model (by reference or by slug), the embedder, a registered card or an alias; of cards and
aliases a tenant sees its own and the shared ones. A generator is hosted by the deployment of its base, or, when
it was tuned as a whole, by a deployment of its own.

Cards and aliases are read from the registry and kept for about a second, so that a model registered, promoted or
deleted at run time is noticed without a restart; a name that is not known yet is looked up afresh at once.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

from cluster.cards import ModelCard, ModelKind, slug
from cluster.errors import Conflict, NotFound, some_of
from cluster.registry import SHARED, Registry
from cluster.router_policy import AUTO, RouterPolicy
from serving.engine import Adapter


class Seen(NamedTuple):
    """Of a snapshot what one tenant sees: cards by id, newest first, and aliases of their ids."""

    cards: Mapping[str, ModelCard]
    aliases: Mapping[str, str]

    def card(self, name: str) -> ModelCard | None:
        """By id or alias."""
        return self.cards.get(self.aliases.get(name, name))


class Snapshot(NamedTuple):
    """The registry at one moment.

    `aliases` map a name to a card id, for all tenants; `owners` card ids to their tenants, and `own_aliases`
    tenants to their aliases, where these are not shared. `policy` is what an evaluation promoted for `auto`.
    """

    cards: list[ModelCard]
    aliases: Mapping[str, str]
    owners: Mapping[str, str] = MappingProxyType({})
    own_aliases: Mapping[str, Mapping[str, str]] = MappingProxyType({})
    policy: RouterPolicy | None = None

    def seen_by(self, tenant: str) -> Seen:
        """What a tenant sees; its own alias goes before a shared one."""
        cards = {card.id: card for card in self.cards if self.owners.get(card.id, tenant) == tenant}
        aliases = {**self.aliases, **self.own_aliases.get(tenant, {})}
        return Seen(cards, {alias: card_id for alias, card_id in aliases.items() if card_id in cards})


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model that answers. `card` is None for the base models that the configuration names.

    `deployment` hosts it where its kind has several: one of the generators.
    """

    name: str
    kind: ModelKind
    card: ModelCard | None = None
    deployment: str | None = None

    @property
    def adapter(self) -> Adapter | None:
        """What the engine loads onto its base for this model."""
        if self.card is None or self.kind is not ModelKind.GENERATOR or not self.card.is_adapter:
            return None
        return Adapter(self.card.id, self.card.weights_uri, self.card.lora_rank or 0, self.card.chat_template)


class Catalogue:
    """What is registered, for one application. Names are looked up in what one tenant sees of it.

    `generators` are model references by the names of their deployments, the one that `auto` asks first.
    """

    def __init__(
        self,
        generators: Mapping[str, str],
        embedder: str,
        read: Callable[[], Snapshot],
        ttl_s: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._generators = dict(generators)
        self._hosts = _hosts(self._generators, {})
        self._embedder = embedder
        self._read = read
        self._ttl_s = ttl_s
        self._clock = clock
        # A router answers thousands of requests by one snapshot, which may hold thousands of cards.
        self._snapshot = Snapshot([], {})
        self._seen: dict[str, Seen] = {}
        self._read_at: float | None = None
        self._lock = asyncio.Lock()

    @property
    def base(self) -> ServedModel:
        """The model that `auto` asks where no other is wanted."""
        deployment, reference = next(iter(self._generators.items()))
        return _base(reference, deployment)

    @property
    def bases(self) -> list[ServedModel]:
        """Generators that are in no registry. A registered one is its card, and seen by the card's tenant."""
        return [
            _base(reference, deployment)
            for deployment, reference in self._generators.items()
            if not _is_registered(reference)
        ]

    @property
    def embedder(self) -> ServedModel:
        return ServedModel(_name(self._embedder), ModelKind.EMBEDDER)

    def of(self, tenant: str) -> TenantCatalogue:
        """Names to models, as this tenant sees them."""
        return TenantCatalogue(self, tenant)

    async def current(self, refresh: bool = False) -> Snapshot:
        """The registry as it was at most `ttl_s` ago, or, with `refresh`, no earlier than now."""
        asked_at = self._clock()
        async with self._lock:
            fresh = self._read_at is not None and asked_at < self._read_at + (0 if refresh else self._ttl_s)
            if not fresh:
                read_at = self._clock()
                self._snapshot = await asyncio.to_thread(self._read)
                self._hosts = _hosts(self._generators, self._snapshot.aliases)
                self._seen.clear()
                self._read_at = read_at
            return self._snapshot

    async def seen_by(self, tenant: str, refresh: bool = False) -> Seen:
        """What a tenant sees of `current`."""
        snapshot = await self.current(refresh)
        if tenant not in self._seen:
            self._seen[tenant] = snapshot.seen_by(tenant)
        return self._seen[tenant]

    async def policy(self) -> RouterPolicy | None:
        """The promoted policy of `auto`, the same for all tenants."""
        return (await self.current()).policy

    def base_named(self, name: str) -> ServedModel | None:
        """A base model or the embedder, by reference or by short name."""
        asked = _name(name) if name in (*self._generators.values(), self._embedder) else name
        return next((base for base in (*self.bases, self.embedder) if base.name == asked), None)

    def deployment_of(self, card: ModelCard) -> str | None:
        """The generator that hosts a registered model, None when none does."""
        weights = card.base_model if card.is_adapter else card.id
        return self._hosts.get(slug(weights)) if card.kind is ModelKind.GENERATOR else None

    def served(self, card: ModelCard) -> ServedModel:
        """A registered model as one that answers."""
        return ServedModel(card.id, card.kind, card, self.deployment_of(card))

    def unservable(self, card: ModelCard) -> str | None:
        """Why a registered model is not served, None when it is."""
        if card.kind is ModelKind.BASE:
            return f"it is a base for further fine-tuning; name it as a run's model: {card.id}"
        if card.kind is ModelKind.EMBEDDER:
            return f"it is an embedder; deploy it with embedder.model: {card.id}"
        if card.kind is ModelKind.CLASSIFIER or self.deployment_of(card) is not None:
            return None
        if card.is_adapter:
            deployed = ", ".join(self._generators.values())
            return (
                f"its base is not deployed (deployed: {deployed}); add {{model: {card.base_model}}} to "
                "further_generators in the Serve config and deploy it again"
            )
        return (
            f"it is a whole model, which needs a deployment of its own; add {{model: {card.id}}} to "
            "further_generators in the Serve config and deploy it again"
        )


def _hosts(generators: dict[str, str], aliases: Mapping[str, str]) -> dict[str, str]:
    """Deployments by their models' short names; of two of the same weights the first hosts.

    One deployed by an alias hosts what is tuned from the id too: a card's base is an id.
    """
    return {
        slug(name): deployment
        for deployment, reference in reversed(generators.items())
        for name in (reference, aliases.get(reference, reference))
    }


class TenantCatalogue:
    """Names to models, as one tenant sees them."""

    def __init__(self, catalogue: Catalogue, tenant: str) -> None:
        self._catalogue = catalogue
        self._tenant = tenant

    @property
    def embedder(self) -> ServedModel:
        return self._catalogue.embedder

    async def find(self, name: str, kind: ModelKind) -> ServedModel:
        """The model of this name and kind. Raises NotFound for one of another kind, and what `named` raises."""
        model = await self.named(name)
        if model.kind is not kind:
            raise NotFound(
                f"{name!r} names a model of kind {model.kind}, this endpoint needs {kind}",
                "model",
                "model_not_found",
            )
        return model

    async def named(self, name: str) -> ServedModel:
        """The model of this name, whatever its kind.

        Raises NotFound for a name nobody knows or a card that no deployment hosts, and Conflict for one whose parity
        was not proven.
        """
        base = self._catalogue.base_named(name)
        if base is not None:
            return base
        card = (await self._seen()).card(name) or (await self._seen(refresh=True)).card(name)
        if card is None:
            known = some_of([model.name for model in await self.list()])
            raise NotFound(f"no model named {name!r}; there are {known}", "model", "model_not_found")
        if card.id == self.embedder.name:
            return self.embedder
        self._require_servable(card)
        return self._catalogue.served(card)

    async def list(self) -> list[ServedModel]:
        """Everything that can be asked for: the bases, then cards, newest first."""
        cards = (await self._seen()).cards.values()
        served = [self._catalogue.served(card) for card in cards if self._is_served(card)]
        return [*self._catalogue.bases, self._catalogue.embedder, *served]

    async def aliases(self) -> Mapping[str, str]:
        """Alias to card id, without those that a base model's name hides: made before it was deployed."""
        found = (await self._seen()).aliases
        return {
            alias: card_id
            for alias, card_id in found.items()
            if alias != AUTO and self._catalogue.base_named(alias) is None
        }

    async def pair_classifier(self) -> ServedModel | None:
        """The newest registered classifier of sentence pairs."""
        cards = (await self._seen()).cards.values()
        pairs = (card for card in cards if card.is_pair and self._is_served(card))
        return next(map(self._catalogue.served, pairs), None)

    async def _seen(self, refresh: bool = False) -> Seen:
        return await self._catalogue.seen_by(self._tenant, refresh)

    def _is_served(self, card: ModelCard) -> bool:
        return card.parity.passed and self._catalogue.unservable(card) is None

    def _require_servable(self, card: ModelCard) -> None:
        if not card.parity.passed:
            raise Conflict(f"{card.id} is not served: its parity check failed: {card.parity.detail}", "model")
        reason = self._catalogue.unservable(card)
        if reason is not None:
            raise NotFound(f"{card.id} is registered but not served: {reason}", "model", "model_not_found")


def snapshot_of(registry: Registry, policy: RouterPolicy | None = None) -> Snapshot:
    """What is registered now."""
    owned = registry.owned()
    aliases = registry.aliases_by_tenant()
    owners = {card.id: tenant for tenant, card in owned if tenant != SHARED}
    return Snapshot([card for _, card in owned], aliases.pop(SHARED, {}), owners, aliases, policy)


def _base(reference: str, deployment: str) -> ServedModel:
    return ServedModel(_name(reference), ModelKind.GENERATOR, deployment=deployment)


def _name(reference: str) -> str:
    """What a model of the configuration is called: a registered one by its id, others by their short name."""
    return reference if _is_registered(reference) else slug(reference)


def _is_registered(reference: str) -> bool:
    return reference.startswith("ft:")
