"""The registry, on SQLite."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Connection, event

from cluster.cards import ModelCard, ModelKind, Parity
from cluster.database import open_database
from cluster.errors import Conflict, HamletError, InvalidInput, NotFound
from cluster.registry import SHARED, Registry

MakeCard = Callable[..., ModelCard]


@pytest.fixture
def registry() -> Registry:
    return Registry()


def test_a_card_comes_back_as_it_was_registered(registry: Registry, make_card: MakeCard) -> None:
    card = make_card(labels=("no", "yes"), metrics={"f1": 0.5})
    registry.register(card)
    assert registry.get(card.id) == card
    assert Registry().get(card.id) == card  # also for another process


def test_an_id_is_never_reused(registry: Registry, make_card: MakeCard) -> None:
    registry.register(make_card())
    with pytest.raises(Conflict, match="registered already"):
        registry.register(make_card())


def test_a_model_that_failed_its_parity_check_is_not_registered(
    registry: Registry, make_card: MakeCard
) -> None:
    card = make_card(parity=Parity(passed=False, max_metric_difference=0.3, detail="f1 0.5 became 0.2"))
    with pytest.raises(Conflict, match=r"f1 0\.5 became 0\.2"):
        registry.register(card)
    assert registry.list() == []


def test_cards_are_listed_newest_first_and_by_kind(registry: Registry, make_card: MakeCard) -> None:
    now = datetime.now(UTC)
    old = make_card(id="old", created_at=now - timedelta(days=1))
    new = make_card(id="new", created_at=now)
    embedder = make_card(id="embedder", kind=ModelKind.EMBEDDER, created_at=now - timedelta(hours=1))
    for card in (new, old, embedder):
        registry.register(card)
    assert [card.id for card in registry.list()] == ["new", "embedder", "old"]
    assert [card.id for card in registry.list(ModelKind.EMBEDDER)] == ["embedder"]


def test_an_unknown_name_is_answered_with_those_there_are(registry: Registry, make_card: MakeCard) -> None:
    registry.register(make_card(id="ft:a"))
    with pytest.raises(NotFound, match=r"'ft:b' is registered .*ft:a"):
        registry.get("ft:b")


def test_promoting_moves_the_alias_and_says_where_it_was(registry: Registry, make_card: MakeCard) -> None:
    for name in ("one", "two"):
        registry.register(make_card(id=name))
    assert registry.promote("live", "one") is None
    assert registry.promote("live", "two") == "one"
    assert registry.get("live").id == "two"
    assert registry.promote("live", "one") == "two"  # back again


@pytest.mark.parametrize(
    ("alias", "error"),
    [
        ("auto", Conflict),
        ("smollm2", Conflict),
        ("minilm", Conflict),
        ("prod+rag", InvalidInput),
        ("ft:a", InvalidInput),
    ],
)
def test_a_name_that_the_router_reads_otherwise_is_no_alias(
    registry: Registry, make_card: MakeCard, alias: str, error: type[HamletError]
) -> None:
    registry.register(make_card(id="ft:a"))
    with pytest.raises(error, match="alias") as refused:
        registry.promote(alias, "ft:a")
    assert refused.value.param == "alias"
    assert registry.aliases() == {}


def test_an_alias_of_an_unknown_model_is_refused(registry: Registry) -> None:
    with pytest.raises(NotFound):
        registry.promote("live", "nobody")
    assert registry.aliases() == {}


def test_deleting_a_card_takes_its_aliases_along(registry: Registry, make_card: MakeCard) -> None:
    registry.register(make_card(id="one"))
    registry.promote("live", "one")
    assert registry.delete("live").id == "one"
    assert registry.list() == []
    assert registry.aliases() == {}


def test_promotions_at_once_all_succeed(registry: Registry, make_card: MakeCard) -> None:
    names = [f"model-{number}" for number in range(6)]
    for name in names:
        registry.register(make_card(id=name))
    faults: list[Exception] = []

    def promote(name: str) -> None:
        try:
            for number in range(10):
                Registry().promote(f"alias-{number}", name)
        except Exception as exc:  # noqa: BLE001 - a thread's exception would be lost
            faults.append(exc)

    threads = [threading.Thread(target=promote, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []
    assert set(registry.aliases()) == {f"alias-{number}" for number in range(10)}
    assert set(registry.aliases().values()) <= set(names)


def test_a_tenant_sees_its_own_models_and_the_shared_ones(registry: Registry, make_card: MakeCard) -> None:
    registry.register(make_card(id="shared"))
    registry.register(make_card(id="ours"), "us")
    registry.register(make_card(id="theirs"), "them")
    assert {card.id for card in registry.list(tenant="us")} == {"shared", "ours"}
    assert registry.get("ours", "us").id == "ours"
    with pytest.raises(NotFound, match="registered: ") as unknown:
        registry.get("theirs", "us")
    assert "theirs, " not in str(unknown.value)
    assert len(registry.list()) == 3  # the operator sees all


def test_an_unknown_name_is_answered_with_some_of_many_models(
    registry: Registry, make_card: MakeCard
) -> None:
    for number in range(25):
        registry.register(make_card(id=f"model-{number}"))
    with pytest.raises(NotFound, match=r"registered: model-\d+, .* and 5 more") as unknown:
        registry.get("none")
    assert unknown.value.message.count("model-") == 20


def test_more_cards_are_read_than_a_database_takes_values_in_one_query(
    registry: Registry, make_card: MakeCard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cluster.registry.IDS_AT_ONCE", 2)
    for number in range(5):
        registry.register(make_card(id=f"model-{number}"), "us" if number % 2 else SHARED)
    assert {card.id: tenant for tenant, card in registry.owned()} == {
        f"model-{number}": "us" if number % 2 else SHARED for number in range(5)
    }


def test_the_command_line_means_the_shared_alias(registry: Registry, make_card: MakeCard) -> None:
    for name, tenant in (("shared", SHARED), ("ours", "us")):
        registry.register(make_card(id=name), tenant)
        registry.promote("prod", name, tenant)
    assert registry.get("prod").id == "shared"
    assert registry.get("prod", "us").id == "ours"


def test_two_tenants_have_an_alias_of_the_same_name(registry: Registry, make_card: MakeCard) -> None:
    for name, tenant in (("ours", "us"), ("theirs", "them")):
        registry.register(make_card(id=name), tenant)
        registry.promote("prod", name, tenant)
    assert registry.get("prod", "us").id == "ours"
    assert registry.get("prod", "them").id == "theirs"
    with pytest.raises(NotFound):
        registry.promote("prod", "theirs", "us")


def test_an_alias_rolls_back_and_forward_again(registry: Registry, make_card: MakeCard) -> None:
    for name in ("one", "two"):
        registry.register(make_card(id=name))
        registry.promote("prod", name)
    assert registry.roll_back("prod") == "one"
    assert registry.get("prod").id == "one"
    assert registry.roll_back("prod") == "two"


def test_an_alias_cannot_roll_back_to_a_model_that_is_deleted(
    registry: Registry, make_card: MakeCard
) -> None:
    for name in ("one", "two"):
        registry.register(make_card(id=name))
        registry.promote("prod", name)
    registry.delete("one")
    with pytest.raises(Conflict, match="no other model"):
        registry.roll_back("prod")
    with pytest.raises(NotFound, match="no alias 'nobody'"):
        registry.roll_back("nobody")


def test_the_weights_of_a_deleted_model_are_noted_until_they_are_removed(make_card: MakeCard) -> None:
    now = [1000.0]
    models = Registry(clock=lambda: now[0])
    models.register(make_card(id="one", weights_uri="/weights/one"))
    models.delete("one")
    assert models.retired_weights(older_than_s=60) == []
    now[0] += 60
    assert models.retired_weights(older_than_s=60) == ["/weights/one"]
    models.forget_weights("/weights/one")
    assert models.retired_weights() == []


def test_all_cards_are_read_once_and_again_only_what_is_new(registry: Registry, make_card: MakeCard) -> None:
    registry.register(make_card(id="one"))
    [(_, first)] = registry.owned()
    registry.register(make_card(id="two"), "us")
    assert {(tenant, card.id) for tenant, card in registry.owned()} == {("", "one"), ("us", "two")}
    assert any(card is first for _, card in registry.owned())
    registry.delete("one")
    assert [card.id for _, card in registry.owned()] == ["two"]


def test_a_card_that_is_deleted_while_all_are_listed_is_left_out(make_card: MakeCard) -> None:
    engine = open_database()
    models = Registry(engine)
    models.register(make_card(id="one"))
    models.register(make_card(id="two"))

    def deleted(connection: Connection, _cursor: object, sql: str, *_: object) -> None:
        if sql.startswith("SELECT model_cards.id, model_cards.tenant"):
            connection.exec_driver_sql("DELETE FROM model_cards WHERE id = 'one'")

    # As PostgreSQL shows it to a transaction that reads in two steps.
    event.listen(engine, "after_cursor_execute", deleted)
    assert [card.id for _, card in models.owned()] == ["two"]
