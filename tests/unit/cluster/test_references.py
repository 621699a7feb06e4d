"""From a reference to a folder, without a hub."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from cluster.cards import ModelCard
from cluster.errors import HubUnreachable, InvalidInput, NotFound
from cluster.hub import hub_is_reachable
from cluster.references import pinned_reference, resolve_model
from cluster.registry import Registry
from cluster.settings import settings
from cluster.storage import local_copy, upload_folder


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HAMLET_HUB_OFFLINE", "1")
    settings.cache_clear()
    hub_is_reachable.cache_clear()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


@pytest.fixture
def registered(folder: Path, tmp_path: Path, make_card: Callable[..., ModelCard]) -> ModelCard:
    card = make_card(weights_uri=upload_folder(folder, str(tmp_path / "storage")))
    Registry().register(card)
    return card


def test_a_local_folder_is_itself(folder: Path) -> None:
    assert resolve_model(str(folder)) == folder


def test_a_folder_of_pickled_weights_is_refused(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(InvalidInput, match="safetensors"):
        resolve_model(str(folder))


def test_a_registered_id_and_its_alias_are_the_cards_weights(registered: ModelCard) -> None:
    Registry().promote("live", registered.id)
    assert str(resolve_model(registered.id)) == registered.weights_uri
    assert str(resolve_model("live")) == registered.weights_uri


def test_an_alias_is_pinned_to_the_id_that_it_names_now_and_nothing_else_is_changed(
    registered: ModelCard, folder: Path, make_card: Callable[..., ModelCard]
) -> None:
    Registry().promote("live", registered.id)
    assert pinned_reference("live") == registered.id
    Registry().register(make_card(id="ft:minilm:hamlet:mrpc:2"))
    Registry().promote("live", "ft:minilm:hamlet:mrpc:2")
    assert pinned_reference("live") == "ft:minilm:hamlet:mrpc:2"
    for reference in (registered.id, str(folder), "builtin:minilm", "acme/model", "./live", "dead"):
        assert pinned_reference(reference) == reference


@pytest.mark.parametrize("reference", ["./nowhere", "/nowhere", "~/nowhere", "ft:x:y:z:1", "builtin:gpt"])
def test_a_name_that_is_nowhere_is_said_to_be(reference: str) -> None:
    with pytest.raises(NotFound):
        resolve_model(reference)


@pytest.mark.parametrize("find", [resolve_model, local_copy])
def test_the_home_of_nobody_is_refused(find: Callable[[str], Path]) -> None:
    with pytest.raises(InvalidInput, match="~nobody-of-that-name/model: there is no such user"):
        find("~nobody-of-that-name/model")


def test_without_a_hub_the_remedy_is_a_built_in_model_or_a_folder() -> None:
    with pytest.raises(HubUnreachable, match="builtin:minilm"):
        resolve_model("some-org/some-model-that-is-not-cached")
