"""Which process holds the collections, and how every other one reaches them.

The embedded engine's files have one owner. With a cluster up it is a named actor, `hamlet-collections`,
for every process of the cluster; without one it is the process that opens them first. With a Qdrant server
(HAMLET_QDRANT_URL) nobody owns anything: every process talks to the server.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cluster import connection
from cluster.errors import HamletError, StoreUnavailable
from cluster.settings import settings
from retrieval.client import AsyncCollections, CollectionsClient, Transport
from retrieval.edge_store import EdgeStore
from retrieval.service import Collections

ACTOR_NAME = "hamlet-collections"

# Searches that run at once in the owner; writes take turns with them inside the engine.
MAX_CONCURRENT_CALLS = 16

# Every verb may be repeated (ids are derived, not drawn), so an owner that was killed is asked again.
MAX_RETRIES = 3


def open_collections() -> CollectionsClient:
    """The collections, for blocking use; close it (or use `with`) when done.

    Raises Conflict when no cluster is up and another process has the collections open.
    """
    return CollectionsClient(_transport())


def async_collections() -> AsyncCollections:
    """The collections, for use in an event loop: `result = await collections.search(...)`."""
    return AsyncCollections(_transport())


def _transport() -> Transport:
    if settings().qdrant_url is not None:
        from retrieval.server_store import ServerStore

        return InProcess(Collections(ServerStore.from_settings(settings())))
    root = settings().home_dir / "collections"
    if _in_cluster():
        return Remote(_owner(root))
    return InProcess(Collections(EdgeStore(root)))


def _in_cluster() -> bool:
    """Whether this process belongs to a Ray cluster, or could; connects it then."""
    ray = sys.modules.get("ray")
    if ray is not None and ray.is_initialized():
        return True
    if not connection.is_up():
        return False
    connection.connect()
    return True


class InProcess:
    """The collections are open in this process, or on a server that it talks to."""

    def __init__(self, collections: Collections) -> None:
        self._collections = collections

    def call(self, verb: str, *args: Any, **kwargs: Any) -> Any:
        return getattr(self._collections, verb)(*args, **kwargs)

    async def call_async(self, verb: str, *args: Any, **kwargs: Any) -> Any:
        return await asyncio.to_thread(self.call, verb, *args, **kwargs)

    def close(self) -> None:
        self._collections.close()


class Remote:
    """The collections are open in the owner, an actor of the cluster."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor

    def call(self, verb: str, *args: Any, **kwargs: Any) -> Any:
        import ray

        with _translated():
            return ray.get(self._actor.call.remote(verb, *args, **kwargs))

    async def call_async(self, verb: str, *args: Any, **kwargs: Any) -> Any:
        with _translated():
            return await self._actor.call.remote(verb, *args, **kwargs)

    def close(self) -> None:
        """The owner stays: others use it."""


class Owner:
    """The actor: the collections of one folder. Its calls run in MAX_CONCURRENT_CALLS threads."""

    def __init__(self, root: str) -> None:
        self._root = Path(root)
        self._collections: Collections | None = None
        self._opening = threading.Lock()

    def call(self, verb: str, *args: Any, **kwargs: Any) -> Any:
        return getattr(self._opened(), verb)(*args, **kwargs)

    def process_id(self) -> int:
        return os.getpid()

    def _opened(self) -> Collections:
        # At the first call and not in __init__, where an error would reach callers as "the actor died".
        with self._opening:
            if self._collections is None:
                self._collections = Collections(EdgeStore(self._root))
            return self._collections


def _owner(root: Path) -> Any:
    """The cluster's owner, started when there is none. Two that start it at once get the same one."""
    import ray

    options = {
        "name": ACTOR_NAME,
        "namespace": connection.NAMESPACE,
        "lifetime": "detached",
        "get_if_exists": True,
        "num_cpus": 0,
        "max_restarts": -1,
        "max_task_retries": MAX_RETRIES,
        "max_concurrency": MAX_CONCURRENT_CALLS,
        # The files lie on the head's disk, and it must be restarted there.
        "resources": {"node:__internal_head__": 0.001},
    }
    return ray.remote(Owner).options(**options).remote(str(root))


@contextmanager
def _translated() -> Iterator[None]:
    """Ray wraps an error of the owner in its own; callers get the one that was raised."""
    from ray.exceptions import RayError, RayTaskError, UnserializableException

    try:
        yield
    except RayTaskError as exc:
        cause = exc.cause
        if isinstance(cause, HamletError):
            raise cause from None
        raise
    except UnserializableException:
        raise  # an error of the code that could not be read here
    except RayError as exc:  # the owner is lost, or its node or memory
        raise StoreUnavailable(
            "the owner of the collections is restarting; try again in a moment", retry_after_s=1.0
        ) from exc
