"""A full fine-tune beside the base: a deployment of its own, added under load, that starts with its first request."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import httpx
import openai
import pytest
from steady_load import steady_load

from cluster.cards import ModelCard
from cluster.registry import Registry

DEADLINE_S = 240.0


def ask(client: openai.OpenAI, model: str) -> openai.types.chat.ChatCompletion:
    messages: list[openai.types.chat.ChatCompletionMessageParam] = [
        {"role": "user", "content": "Count to five."}
    ]
    return client.chat.completions.create(model=model, messages=messages, temperature=0, max_tokens=8)


def until(true: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not true():
        assert time.monotonic() < deadline, what
        time.sleep(0.5)


@pytest.mark.soak
def test_a_full_fine_tune_is_added_under_load_and_starts_when_it_is_asked(
    base_url: str,
    client: openai.OpenAI,
    deploy: Callable[..., str],
    make_full_fine_tune: Callable[[], ModelCard],
    make_adapter: Callable[..., ModelCard],
) -> None:
    card = make_full_fine_tune()
    models = Registry()
    models.register(card)
    with pytest.raises(openai.NotFoundError, match="further_generators"):
        ask(client, card.id)

    def application() -> dict[str, Any]:
        (found,) = httpx.get(f"{base_url}/v1/cluster", timeout=10).json()["applications"]
        return dict(found)

    def replicas() -> int:
        (added,) = [one for one in application()["deployments"] if one["name"].startswith("generator-")]
        return len(added["replicas"])

    idles = {"min_replicas": 0, "look_back_period_s": 2, "upscale_delay_s": 2, "downscale_delay_s": 5}
    with steady_load(base_url) as statuses:
        deploy(further_generators=[{"model": card.id, **idles}])
        until(lambda: card.id in [model.id for model in client.models.list()], "it is not served")
        until(lambda: application()["status"] == "RUNNING", "the old replicas do not go")
    assert set(statuses) == {200}
    assert replicas() == 0
    assert httpx.get(f"{base_url}/readyz", timeout=10).status_code == 200
    assert replicas() == 0

    tuned = ask(client, card.id)
    assert tuned.model == card.id
    assert (tuned.model_extra or {})["hamlet"]["route"] == "tuned"
    assert tuned.choices[0].message.content != ask(client, "smollm2").choices[0].message.content
    models.promote("prod", card.id)
    until(lambda: replicas() == 0, "it does not stop when it idles")
    assert ask(client, "prod").choices[0].message.content == tuned.choices[0].message.content

    adapter = make_adapter(base_model=card.id)
    models.register(adapter)
    assert ask(client, adapter.id).choices[0].message.content != tuned.choices[0].message.content
