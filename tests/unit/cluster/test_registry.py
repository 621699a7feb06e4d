"""The registry, on SQLite."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from cluster.cards import ModelCard, ModelKind, Parity
from cluster.errors import ConfigError, Conflict, NotFound, Unavailable
from cluster.registry import Registry, open_database
from cluster.settings import Settings

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


def test_processes_that_open_a_new_database_at_once_all_succeed(tmp_path: Path) -> None:
    code = (
        "import sys; from cluster.registry import open_database; from cluster.settings import Settings;"
        "sys.stdout.write('ready\\n'); sys.stdout.flush(); sys.stdin.readline();"
        f"open_database(Settings(database_url='sqlite:///{tmp_path}/new.db'))"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(4)
    ]
    for process in processes:
        assert process.stdout is not None
        process.stdout.readline()
    for process in processes:
        process.communicate("go\n")
    assert [process.returncode for process in processes] == [0, 0, 0, 0]


def test_a_url_that_is_none_is_refused_without_showing_it() -> None:
    with pytest.raises(ConfigError, match="HAMLET_DATABASE_URL") as refused:
        open_database(Settings(database_url="secret nonsense"))
    assert "secret" not in str(refused.value)


def test_a_missing_driver_is_named() -> None:
    with pytest.raises(ConfigError, match="pip install"):
        open_database(Settings(database_url="mssql+pymssql://server/database"))


def test_a_database_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(Unavailable, match=r"sqlite:///.*file/hamlet\.db cannot be opened"):
        open_database(Settings(database_url=f"sqlite:///{tmp_path}/file/hamlet.db"))
