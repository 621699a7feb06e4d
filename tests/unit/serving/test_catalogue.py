from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from cluster.cards import ModelCard, ModelKind
from cluster.errors import NotFound
from serving.catalogue import Catalogue, Seen, Snapshot


class Shelf:
    """A registry that counts how often it is read, and a clock that is set by hand."""

    def __init__(self, embedder: str = "builtin:minilm", **further: str) -> None:
        self.cards: list[ModelCard] = []
        self.aliases: dict[str, str] = {}
        self.num_reads = 0
        self.now_s = 0.0
        self.catalogue = Catalogue(
            {"generator": "builtin:smollm2", **further},
            embedder,
            self._read,
            ttl_s=1.0,
            clock=lambda: self.now_s,
        )

    def _read(self) -> Snapshot:
        self.num_reads += 1
        return Snapshot(list(self.cards), dict(self.aliases))

    def find(self, name: str) -> str:
        return asyncio.run(self.catalogue.of("default").find(name, ModelKind.GENERATOR)).name


def test_cards_are_read_once_a_second_at_most(make_card: Callable[..., Any]) -> None:
    shelf = Shelf()
    shelf.cards.append(make_card())
    for _ in range(20):
        shelf.find(make_card().id)
    assert shelf.num_reads == 1
    shelf.now_s = 1.5
    shelf.find(make_card().id)
    assert shelf.num_reads == 2


def test_what_a_tenant_sees_is_made_once_for_the_requests_between_two_readings(
    make_card: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    shelf = Shelf()
    shelf.cards.append(make_card())
    made_for = []
    seen_by = Snapshot.seen_by

    def counted(snapshot: Snapshot, tenant: str) -> Seen:
        made_for.append(tenant)
        return seen_by(snapshot, tenant)

    monkeypatch.setattr(Snapshot, "seen_by", counted)
    for _ in range(20):
        shelf.find(make_card().id)
    assert made_for == ["default"]


def test_an_unknown_name_is_answered_with_some_of_many_models(make_card: Callable[..., Any]) -> None:
    shelf = Shelf()
    shelf.cards = [make_card(f"ft:smollm2:a:x:{number}") for number in range(1000)]
    with pytest.raises(NotFound, match=r"there are smollm2, minilm, .* and 982 more"):
        shelf.find("none")


def test_a_model_registered_a_moment_ago_is_found_at_once(make_card: Callable[..., Any]) -> None:
    shelf = Shelf()
    with pytest.raises(NotFound):
        shelf.find("ft:smollm2:acme:new:1")
    shelf.now_s = 0.01
    shelf.cards.append(make_card("ft:smollm2:acme:new:1"))
    assert shelf.find("ft:smollm2:acme:new:1") == "ft:smollm2:acme:new:1"


def test_a_promoted_alias_moves_and_a_deleted_card_goes_within_a_second(
    make_card: Callable[..., Any],
) -> None:
    shelf = Shelf()
    shelf.cards = [make_card("ft:smollm2:a:x:1"), make_card("ft:smollm2:a:x:2")]
    shelf.aliases["prod"] = "ft:smollm2:a:x:1"
    assert shelf.find("prod") == "ft:smollm2:a:x:1"
    shelf.aliases["prod"] = "ft:smollm2:a:x:2"
    shelf.cards.pop(0)
    shelf.now_s = 1.1
    assert shelf.find("prod") == "ft:smollm2:a:x:2"
    with pytest.raises(NotFound):
        shelf.find("ft:smollm2:a:x:1")


def test_the_base_needs_no_registry() -> None:
    shelf = Shelf()
    assert shelf.find("smollm2") == shelf.find("builtin:smollm2") == "smollm2"
    assert shelf.num_reads == 0


def test_a_model_of_another_kind_says_what_it_is() -> None:
    with pytest.raises(NotFound, match="kind embedder, this endpoint needs generator"):
        Shelf().find("minilm")


WHOLE = "ft:smollm2:acme:whole:0a1b2c3d"


def test_a_name_nobody_knows_is_looked_up_afresh_once() -> None:
    shelf = Shelf()
    shelf.find("smollm2")
    with pytest.raises(NotFound, match="no model named 'nothing'"):
        asyncio.run(shelf.catalogue.of("default").named("nothing"))
    assert shelf.num_reads == 2


def test_an_embedder_that_was_tuned_is_called_by_its_id_and_its_alias(make_card: Callable[..., Any]) -> None:
    card = make_card("ft:minilm:acme:docs:1a2b3c4d", kind=ModelKind.EMBEDDER, is_adapter=False)
    shelf = Shelf(embedder=card.id)
    shelf.cards.append(card)
    shelf.aliases["docs"] = card.id
    seen = shelf.catalogue.of("default")
    assert [model.name for model in asyncio.run(seen.list())] == ["smollm2", card.id]
    for name in (card.id, "docs"):
        assert asyncio.run(seen.find(name, ModelKind.EMBEDDER)).name == card.id


def test_a_model_is_hosted_by_the_deployment_of_its_base_or_by_its_own(make_card: Callable[..., Any]) -> None:
    shelf = Shelf(**{"generator-0a1b2c3d": WHOLE, "generator-qwen3-1b": "Qwen/Qwen3-1B"})
    shelf.cards = [
        make_card(WHOLE, is_adapter=False),
        make_card("ft:0a1b2c3d:acme:more:1", base_model=WHOLE),
        make_card("ft:qwen3-1b:acme:x:1", base_model="Qwen/Qwen3-1B"),
        make_card(),
    ]
    hosts = {
        WHOLE: "generator-0a1b2c3d",
        "ft:0a1b2c3d:acme:more:1": "generator-0a1b2c3d",
        "qwen3-1b": "generator-qwen3-1b",
        "Qwen/Qwen3-1B": "generator-qwen3-1b",
        "ft:qwen3-1b:acme:x:1": "generator-qwen3-1b",
        "smollm2": "generator",
        make_card().id: "generator",
    }
    catalogue = shelf.catalogue.of("default")
    found = {name: asyncio.run(catalogue.find(name, ModelKind.GENERATOR)) for name in hosts}
    assert {name: model.deployment for name, model in found.items()} == hosts
    assert {name for name, model in found.items() if model.adapter} == {
        "ft:0a1b2c3d:acme:more:1",
        "ft:qwen3-1b:acme:x:1",
        make_card().id,
    }
    listed = [model.name for model in asyncio.run(catalogue.list())]
    assert listed == ["smollm2", "qwen3-1b", "minilm", *(card.id for card in shelf.cards)]


def test_what_is_tuned_from_a_model_that_is_deployed_by_an_alias_is_hosted_there(
    make_card: Callable[..., Any],
) -> None:
    shelf = Shelf(**{"generator-support": "support"})
    tuned = "ft:0a1b2c3d:acme:more:1"
    shelf.cards = [make_card(WHOLE, is_adapter=False), make_card(tuned, base_model=WHOLE)]
    shelf.aliases = {"support": WHOLE}
    found = asyncio.run(shelf.catalogue.of("default").find(tuned, ModelKind.GENERATOR))
    assert found.deployment == "generator-support"


def test_a_model_that_nothing_hosts_says_what_to_deploy(make_card: Callable[..., Any]) -> None:
    shelf = Shelf()
    shelf.cards = [
        make_card(WHOLE, is_adapter=False),
        make_card("ft:qwen3-1b:acme:x:1", base_model="Qwen/Qwen3-1B"),
    ]
    with pytest.raises(NotFound, match=rf"add \{{model: {WHOLE}\}} to further_generators"):
        shelf.find(WHOLE)
    with pytest.raises(NotFound, match=r"add \{model: Qwen/Qwen3-1B\} to further_generators"):
        shelf.find("ft:qwen3-1b:acme:x:1")


def test_a_whole_model_is_seen_by_its_own_tenant_alone_although_it_is_deployed(
    make_card: Callable[..., Any],
) -> None:
    snapshot = Snapshot([make_card(WHOLE, is_adapter=False)], {}, owners={WHOLE: "ann"})
    generators = {"generator": "builtin:smollm2", "generator-0a1b2c3d": WHOLE}
    catalogue = Catalogue(generators, "builtin:minilm", lambda: snapshot)
    assert asyncio.run(catalogue.of("ann").find(WHOLE, ModelKind.GENERATOR)).name == WHOLE
    with pytest.raises(NotFound) as refused:
        asyncio.run(catalogue.of("bob").find(WHOLE, ModelKind.GENERATOR))
    assert "there are smollm2, minilm" in refused.value.message
