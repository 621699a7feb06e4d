from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

import pytest

from cluster.cards import ModelCard
from cluster.errors import Unavailable
from cluster.router_policy import RouterPolicy
from serving.config import RouterConfig
from serving.policy import RouteKind, Rule, rule_in_force
from serving.promoted import PromotedPolicy
from serving.scripted_parts import ScriptedApplication, scripted_passage

POLICY = RouterPolicy(grounded_route="tuned", score_threshold=0.5, tuned_model="ft:x")


def test_what_was_promoted_goes_before_the_configuration() -> None:
    router = RouterConfig(grounded_route="rag", score_threshold=0.3, tuned_model="alias")
    assert rule_in_force(router, None) == Rule(0.3, RouteKind.RAG, "alias")
    assert rule_in_force(router, POLICY) == Rule(0.5, RouteKind.TUNED, "ft:x")
    plain = RouterPolicy(grounded_route="plain", score_threshold=0.4)
    assert rule_in_force(router, plain) == Rule(0.4, RouteKind.PLAIN, "alias")


def test_a_policy_that_cannot_be_read_leaves_the_last_one_in_force(caplog: pytest.LogCaptureFixture) -> None:
    states: list[RouterPolicy | Exception | None] = [None, POLICY, Unavailable("x"), Unavailable("x"), None]

    def read() -> RouterPolicy | None:
        state = states.pop(0)
        if isinstance(state, Exception):
            raise state
        return state

    promoted = PromotedPolicy(read)
    with caplog.at_level(logging.WARNING):
        assert [promoted.read() for _ in range(5)] == [None, POLICY, POLICY, POLICY, None]
    assert len(caplog.records) == 1, "said once, not with every request"


@pytest.mark.timeout(30)
def test_a_storage_that_hangs_is_waited_for_once_and_answers_when_it_is_back(
    caplog: pytest.LogCaptureFixture,
) -> None:
    is_back, num_read = threading.Event(), 0

    def read() -> RouterPolicy | None:
        nonlocal num_read
        num_read += 1
        is_back.wait()
        return POLICY

    promoted = PromotedPolicy(read, timeout_s=0.01)
    assert [promoted.read() for _ in range(3)] == [None, None, None]
    assert (num_read, len(caplog.records)) == (1, 1)
    is_back.set()
    while promoted.read() != POLICY:
        pass


def test_auto_takes_the_promoted_route_and_threshold(
    world: ScriptedApplication, chat: Callable[..., Any], make_card: Callable[..., ModelCard]
) -> None:
    card = make_card()
    world.cards = [card]
    world.retriever.answer = lambda _job: [scripted_passage(1, "27 days", 0.45)]
    assert chat("How many days?", model="auto").json()["hamlet"]["route"] == "rag"
    world.policy = RouterPolicy(grounded_route="tuned", score_threshold=0.4, tuned_model=card.id)
    body = chat("How many days?", model="auto").json()
    assert (body["hamlet"]["route"], body["model"]) == ("tuned", card.id)
    world.policy = RouterPolicy(grounded_route="rag", score_threshold=0.5)
    assert chat("How many days?", model="auto").json()["hamlet"]["route"] == "plain"
