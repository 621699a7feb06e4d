"""Reads the files of vector stores into their collections, and removes what was taken out: one item at a time.

Items come from `vector_store_queue`, leased. Everything here may be ended at any moment, by a kill as well: the
lease runs out, another worker takes the item, and ingestion goes on where it was (`retrieval/ingest.py`).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from cluster.errors import DataError, HamletError, InvalidInput, NotFound, Unavailable, Unprocessable
from cluster.files import Files
from cluster.vector_store_queue import MAX_ATTEMPTS, Task, VectorStoreQueue, Work
from retrieval.client import CollectionsClient
from retrieval.ingest import Ingestor
from retrieval.readers import read_document
from retrieval.vectorizer import TextEmbedder
from serving.vector_store_index import collection_of, document_id, retrieval_config_of, stored_metadata

log = logging.getLogger(__name__)

LEASE_S = 30.0
# After a part was down: how long until the item is tried again.
PUT_OFF_S = 5.0
# How often to look for work, and for what ended by itself, while there is nothing to do.
IDLE_S = 0.5
SWEEP_EVERY_S = 5.0

# OpenAI's codes of a file that failed.
UNSUPPORTED, INVALID, SERVER_ERROR = "unsupported_file", "invalid_file", "server_error"


class VectorStoreWork:
    """One worker. `embedder` cuts and embeds, and is the one that queries are embedded by."""

    def __init__(
        self,
        queue: VectorStoreQueue,
        files: Files,
        collections: CollectionsClient,
        embedder: TextEmbedder,
        lease_s: float = LEASE_S,
    ) -> None:
        self._queue = queue
        self._files = files
        self._collections = collections
        self._embedder = embedder
        self._lease_s = lease_s
        self._unoptimized: set[str] = set()

    def run(self, stop: threading.Event) -> None:
        """Work until `stop` is set."""
        swept_at = float("-inf")
        while not stop.is_set():
            try:
                if self.run_one():
                    continue
                self.optimize()
                if time.monotonic() >= swept_at + SWEEP_EVERY_S:
                    self._queue.sweep()
                    swept_at = time.monotonic()
            except Exception:
                log.exception("vector stores: the next item could not be taken")
            stop.wait(IDLE_S)

    def run_one(self) -> bool:
        """Do the next item; False when there is none."""
        work = self._queue.claim(self._lease_s)
        if work is None:
            return False
        try:
            with self._kept(work):
                self._do(work)
        except Exception as exc:  # noqa: BLE001 - the boundary of the background work; the file is told
            self._give_up(work, exc)
        return True

    def _give_up(self, work: Work, error: Exception) -> None:
        """Say that a file cannot be read; what a part that is down kept us from is done later."""
        name = f"{work.file.id} of {work.file.store_id}"
        if isinstance(error, HamletError):
            log.warning("%s: %s: %s", name, work.task, error)
        else:
            log.error("%s: %s failed", name, work.task, exc_info=error)
        # What is to be removed is removed, however often it takes.
        if isinstance(error, Unavailable) or work.task is not Task.READ:
            self._queue.put_off(work, PUT_OFF_S)
        elif isinstance(error, HamletError):
            self._queue.fail(work, failure_code(error), error.message)
        else:
            self._queue.fail(work, SERVER_ERROR, "an internal error occurred while the file was read")

    def optimize(self) -> None:
        """Build the search index over what was written since the last time."""
        while self._unoptimized:
            self._collections.optimize(self._unoptimized.pop())

    def _do(self, work: Work) -> None:
        if work.task is Task.REMOVE:
            self._remove(work)
            self._queue.removed(work)
        elif work.task is Task.PURGE:
            self._remove(work)
            self._queue.purged(work)
        else:
            self._read(work)

    def _read(self, work: Work) -> None:
        file = work.file
        if work.num_attempts > MAX_ATTEMPTS:
            message = (
                f"the process that read the file ended {MAX_ATTEMPTS} times; it may need too much memory"
            )
            self._queue.fail(work, SERVER_ERROR, message)
            return
        if work.must_purge:
            self._remove(work)
        stored = self._files.get(file.tenant, file.id)
        with self._files.open(stored) as stream:
            content = stream.read()
        document = read_document(
            content,
            document_id(file.store_id, file.id),
            stored.filename,
            stored_metadata(file.store_id, file.attributes),
        )
        assert file.chunking is not None  # only collections do not know theirs
        config = retrieval_config_of(file.tenant, file.chunking, self._embedder)
        ingestor = Ingestor(self._collections, self._embedder, config, file.tenant)
        # The index is built when the queue is empty, not after each of a thousand files.
        ingestor.add([document], optimize=False)
        self._unoptimized.add(config.collection)
        if not self._queue.complete(work, self._usage_bytes(work)) and not self._queue.is_known(work):
            self._remove(work)  # taken out while it was read, by one that did not wait for us

    def _usage_bytes(self, work: Work) -> int:
        """What a file's chunks take: their text as UTF-8, and a float32 vector each."""
        file = work.file
        name = document_id(file.store_id, file.id)
        chunks = self._collections.chunks(collection_of(file.tenant), name, file.tenant)
        return sum(len(chunk.text.encode()) + 4 * self._embedder.dimension for chunk in chunks)

    def _remove(self, work: Work) -> None:
        file = work.file
        name = document_id(file.store_id, file.id)
        with suppress(NotFound):  # no file of this tenant has ever been read
            self._collections.delete_documents(collection_of(file.tenant), [name], file.tenant)

    @contextmanager
    def _kept(self, work: Work) -> Iterator[None]:
        """Renew the lease of an item while it is worked on."""
        done = threading.Event()

        def renew() -> None:
            while not done.wait(self._lease_s / 3):
                try:
                    if not self._queue.renew(work, self._lease_s):
                        return  # another has it; our end will change nothing
                except Exception:
                    log.exception("the lease of %s could not be renewed", work.file.id)

        thread = threading.Thread(target=renew, name=f"lease-{work.file.id}", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()


def failure_code(error: HamletError) -> str:
    """OpenAI's code of a file that could not be read. Pure.

    >>> failure_code(Unprocessable("the file is empty", "file", "empty_file"))
    'invalid_file'
    """
    if error.code == UNSUPPORTED:
        return UNSUPPORTED
    return INVALID if isinstance(error, (DataError, InvalidInput, NotFound, Unprocessable)) else SERVER_ERROR
