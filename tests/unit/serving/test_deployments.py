from __future__ import annotations

from collections.abc import Callable

import pytest

from cluster.cards import ModelCard
from cluster.errors import ConfigError
from cluster.registry import Registry
from serving.deployments import require_whole_model


@pytest.mark.parametrize("kind", ["adapter", "classifier"])
def test_what_does_not_generate_by_itself_is_no_generators_model(
    make_card: Callable[..., ModelCard], pair_card: ModelCard, kind: str
) -> None:
    card = pair_card if kind == "classifier" else make_card()
    Registry().register(card)
    with pytest.raises(ConfigError, match=f"{card.id} cannot be a generator's model: it is .*{kind}"):
        require_whole_model(card.id)


def test_bases_and_full_fine_tunes_are(make_card: Callable[..., ModelCard]) -> None:
    card = make_card(is_adapter=False)
    Registry().register(card)
    for reference in ("builtin:smollm2", card.id):
        require_whole_model(reference)
