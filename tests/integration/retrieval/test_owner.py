"""One owner of the embedded collections in a real cluster, used from everywhere.

Ray is imported inside the tests: it reads how to authenticate once, at import.
"""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from cluster.connection import NAMESPACE, connect
from cluster.errors import InvalidInput, NotFound
from cluster.head_record import HeadRecord
from retrieval.config import retrieval_config
from retrieval.documents import Content, Document, Section
from retrieval.ingest import Ingestor
from retrieval.owner import ACTOR_NAME, Remote, async_collections, open_collections
from retrieval.search import Mode, SearchRequest
from retrieval.vectorizer import HashEmbedder


def document(id_: str, text: str) -> Document:
    return Document(id_, id_, id_, Content(text, (Section(0, len(text)),)))


@pytest.fixture
def filled(head: HeadRecord) -> str:
    """A collection in the cluster's owner."""
    with open_collections() as collections:
        Ingestor(collections, HashEmbedder(), retrieval_config(collection="shared")).add(
            [document("leave", "27 days of paid leave."), document("badge", "The badge opens the door.")]
        )
    return "shared"


def test_any_process_of_the_cluster_uses_the_same_collections(filled: str) -> None:
    import ray

    @ray.remote(num_cpus=0)
    def search_there(collection: str) -> list[str]:
        async def ask() -> list[str]:
            request = SearchRequest("paid leave", mode=Mode.BM25)
            return [hit.document_id for hit in (await async_collections().search(collection, request)).hits]

        return asyncio.run(ask())

    assert ray.get([search_there.remote(filled) for _ in range(2)]) == [["leave"], ["leave"]]
    with open_collections() as collections:
        assert collections.count(filled) == 2


def test_errors_of_the_owner_arrive_as_they_were_raised(filled: str) -> None:
    with open_collections() as collections:
        with pytest.raises(NotFound, match="no collection 'nothing'") as caught:
            collections.count("nothing")
        assert type(caught.value) is NotFound
        with pytest.raises(InvalidInput) as refused:
            collections.search(filled, SearchRequest("x", mode=Mode.BM25, top_k=0))
        assert refused.value.param == "top_k"


def test_a_killed_owner_comes_back_with_everything(filled: str) -> None:
    import ray

    collections = open_collections()
    actor = ray.get_actor(ACTOR_NAME, namespace=NAMESPACE)
    process_id = ray.get(actor.process_id.remote())
    os.kill(process_id, signal.SIGKILL)
    assert collections.count(filled) == 2
    assert ray.get(actor.process_id.remote()) != process_id


def test_with_a_cluster_nothing_is_opened_in_this_process(filled: str) -> None:
    connect()
    assert isinstance(open_collections()._transport, Remote)
