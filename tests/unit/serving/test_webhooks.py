from __future__ import annotations

import json
from typing import Any

import httpx
import openai
import pytest

from cluster.database import open_database
from cluster.errors import ConfigError
from cluster.settings import settings
from cluster.webhook_outbox import WebhookOutbox, announce
from serving.webhooks import Webhook, signing_key

SECRET = "whsec_c2VjcmV0IG9mIHRoZSB0ZXN0"


class Receiver:
    """Takes messages, or answers with the statuses it is given first."""

    def __init__(self, *statuses: int) -> None:
        self.statuses = list(statuses)
        self.taken: list[tuple[bytes, dict[str, str]]] = []

    def post(self, _url: str, *, content: bytes, headers: dict[str, str], timeout: float) -> httpx.Response:
        status = self.statuses.pop(0) if self.statuses else 200
        if status == 0:
            raise httpx.ConnectError("nobody listens")
        self.taken.append((content, headers))
        return httpx.Response(status)


@pytest.fixture
def outbox(monkeypatch: pytest.MonkeyPatch) -> WebhookOutbox:
    monkeypatch.setenv("HAMLET_WEBHOOK_URL", "https://example.org/hook")
    settings.cache_clear()
    with open_database().begin() as connection:
        announce(connection, "fine_tuning.job.succeeded", "ftjob-1", 0.0)
    return WebhookOutbox()


def test_a_message_is_accepted_by_openais_own_client(outbox: WebhookOutbox) -> None:
    receiver = Receiver()
    Webhook(outbox, "https://example.org/hook", SECRET, receiver.post).deliver()
    [(body, headers)] = receiver.taken
    event: Any = openai.OpenAI(api_key="none").webhooks.unwrap(body, headers, secret=SECRET)
    assert (event.type, event.data.id) == ("fine_tuning.job.succeeded", "ftjob-1")
    assert outbox.due() == []


def test_an_address_that_no_client_can_call_is_no_fault_of_ours(outbox: WebhookOutbox) -> None:
    Webhook(outbox, "http://-ü-/hook").deliver()
    assert outbox.due() == []  # it is tried again later, and given up in the end


@pytest.mark.parametrize("refusal", [0, 500, 404])
def test_a_message_is_sent_until_it_is_taken_under_the_same_id(outbox: WebhookOutbox, refusal: int) -> None:
    receiver = Receiver(refusal, refusal)
    now = [1e12]
    later = WebhookOutbox(clock=lambda: now[0])
    webhook = Webhook(later, "https://example.org/hook", None, receiver.post)
    for _ in range(3):
        webhook.deliver()
        webhook.deliver()  # not before its time
        now[0] += 3600
    assert later.due() == []
    assert len({json.loads(body)["id"] for body, _ in receiver.taken}) == 1
    assert receiver.statuses == []


@pytest.mark.parametrize("secret", ["whsec_not base64!", "whsec_ü", SECRET.removeprefix("whsec_")])
def test_a_secret_that_is_none_is_told_at_start(secret: str) -> None:
    with pytest.raises(ConfigError, match="must be whsec_ and base64"):
        signing_key(secret)
