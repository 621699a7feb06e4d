"""Whether the model and data hub answers: asked once, in seconds.

The hub's own client retries for half a minute before it gives up, which is too long to wait for a fallback.
"""

from __future__ import annotations

import os
from functools import cache

import httpx

from cluster.settings import settings

TIMEOUT_S = 3.0


def hub_endpoint() -> str:
    """The hub's address: a mirror by HF_ENDPOINT, as its own client reads it."""
    return os.environ.get("HF_ENDPOINT", "https://huggingface.co")


@cache
def hub_is_reachable() -> bool:
    """Whether the hub answers at all; False under HAMLET_HUB_OFFLINE or HF_HUB_OFFLINE."""
    if settings().hub_offline or os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0"):
        return False
    try:
        httpx.head(hub_endpoint(), timeout=TIMEOUT_S)
    except httpx.HTTPError:
        return False
    return True
