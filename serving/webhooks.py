"""Telling a webhook that jobs and batches have ended, signed as OpenAI's clients check it (`client.webhooks.unwrap`).

Standard Webhooks: the signature is HMAC-SHA256 over "<id>.<timestamp>.<body>" with the secret. A message is sent
until it is taken, less and less often, for about a day; its id stays the same, as it may arrive twice.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import logging
import time
from collections.abc import Callable

import httpx

from cluster.errors import ConfigError
from cluster.webhook_outbox import Delivery, WebhookOutbox

log = logging.getLogger(__name__)

TIMEOUT_S = 10.0
FIRST_RETRY_S = 5.0
LONGEST_RETRY_S = 3600.0
MAX_TRIES = 30
SECRET_PREFIX = "whsec_"


class Webhook:
    """One URL, and the messages that are due for it."""

    def __init__(
        self,
        outbox: WebhookOutbox,
        url: str,
        secret: str | None = None,
        send: Callable[..., httpx.Response] = httpx.post,
    ) -> None:
        self._outbox = outbox
        self._url = url
        self._key = signing_key(secret) if secret else None
        self._send = send

    def deliver(self) -> None:
        """Try each message that is due, once."""
        for delivery in self._outbox.due():
            if self._is_taken(delivery):
                self._outbox.done(delivery)
            elif delivery.num_tries + 1 >= MAX_TRIES:
                log.error("webhook %s of %s is given up", delivery.id, delivery.object_id)
                self._outbox.done(delivery)
            else:
                self._outbox.try_again(delivery, retry_in_s(delivery.num_tries))

    def _is_taken(self, delivery: Delivery) -> bool:
        body = json.dumps(message(delivery)).encode()
        headers = {"content-type": "application/json"}
        headers |= signature_headers(delivery.id, int(time.time()), body, self._key)
        try:
            answer = self._send(self._url, content=body, headers=headers, timeout=TIMEOUT_S)
        except (httpx.HTTPError, httpx.InvalidURL) as exc:
            log.warning("webhook %s is not taken: %s", delivery.id, exc)
            return False
        if not answer.is_success:
            log.warning("webhook %s is not taken: HTTP %d", delivery.id, answer.status_code)
        return answer.is_success


def message(delivery: Delivery) -> dict[str, object]:
    return {
        "object": "event",
        "id": delivery.id,
        "type": delivery.type,
        "created_at": int(delivery.created_at),
        "data": {"id": delivery.object_id},
    }


def signature_headers(id: str, timestamp: int, body: bytes, key: bytes | None) -> dict[str, str]:
    """The headers of Standard Webhooks, the signature where there is a key."""
    headers = {"webhook-id": id, "webhook-timestamp": str(timestamp)}
    if key is None:
        return headers
    digest = hmac.new(key, f"{id}.{timestamp}.".encode() + body, hashlib.sha256).digest()
    return headers | {"webhook-signature": f"v1,{base64.b64encode(digest).decode()}"}


def signing_key(secret: str) -> bytes:
    """The key in a secret of the form whsec_<base64>. Raises ConfigError."""
    try:
        # Without the prefix clients take the text itself for the key, and would find no signature of ours right.
        if not secret.startswith(SECRET_PREFIX):
            raise ValueError(f"it does not begin with {SECRET_PREFIX}")
        return base64.b64decode(secret.removeprefix(SECRET_PREFIX), validate=True)
    except ValueError as exc:
        raise ConfigError(
            "HAMLET_WEBHOOK_SECRET must be whsec_ and base64; make one with: "
            "python -c 'import base64, os; print(\"whsec_\" + base64.b64encode(os.urandom(24)).decode())'",
            "HAMLET_WEBHOOK_SECRET",
        ) from exc


def retry_in_s(num_tries: int) -> float:
    """Seconds until the next try.

    >>> [retry_in_s(n) for n in (0, 1, 2, 20)]
    [5.0, 10.0, 20.0, 3600.0]
    """
    return min(FIRST_RETRY_S * 2.0**num_tries, LONGEST_RETRY_S)
