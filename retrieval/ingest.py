"""Documents into a collection: cut, embedded, written; safe to repeat and to interrupt.

The chunk at position 0 is written last of its document. It carries the content hash, so a document counts
as indexed only when all of it is, and a run that was killed goes on with the documents it had not finished.
Position 1 is written first: what a killed run left of a new document is found by it.
A document that changed gives up its hash before any of its chunks does, or one that was changed back after such
a run would pass for what it was. What a shorter version leaves over is removed just before position 0 is written:
while there are no vectors yet, the old version stays whole, and with the hash nothing is left to be removed.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass, field
from itertools import islice
from typing import TypeVar

import numpy as np

from cluster.errors import DataError, HamletError, InvalidInput, Unprocessable
from cluster.tenants import DEFAULT_TENANT
from retrieval.chunks import Chunk, Chunker
from retrieval.client import CollectionsClient
from retrieval.config import RetrievalConfig
from retrieval.documents import Document, MetadataValue
from retrieval.points import DocumentRecord, joined_fields, make_point
from retrieval.readers import read_document
from retrieval.sources import Source, find_sources, is_below
from retrieval.store import CollectionSpec
from retrieval.vectorizer import TextEmbedder, text_index

# Chunks for one embedding process: enough to sort by length, few enough to show progress.
WINDOW_CHUNKS = 256

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Skipped:
    """A source that is not in the index, and why."""

    uri: str
    reason: str


@dataclass
class IngestReport:
    """What a run did, in documents unless said."""

    num_added: int = 0
    num_updated: int = 0
    num_unchanged: int = 0
    num_removed: int = 0
    num_chunks: int = 0
    skipped: list[Skipped] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def chunks_per_s(self) -> float:
        return self.num_chunks / self.seconds if self.seconds else 0.0


@dataclass(frozen=True)
class _Pending:
    document: Document
    sha256: str
    num_chunks: int
    chunk: Chunk


class _Owners:
    """Which document each content is indexed under, by its hash, as far as a run has come."""

    def __init__(self, indexed: Mapping[str, str]) -> None:
        self._indexed = indexed  # document id -> content hash
        self._owners = {sha256: id_ for id_, sha256 in indexed.items()}
        self._seen: set[str] = set()

    def may_give_up(self, document_id: str, sha256: str) -> bool:
        """Whether what a document holds now is owned by another that the run has not come to.

        What it held before, it owns no longer.
        """
        self._seen.add(document_id)
        before = self._indexed.get(document_id, sha256)
        if before != sha256 and self._owners.get(before) == document_id:
            del self._owners[before]
        return self._owners.get(sha256, document_id) not in self._seen

    def claim(self, document_id: str, sha256: str) -> str:
        """The owner of a content: this document, if nobody was before."""
        return self._owners.setdefault(sha256, document_id)


class Ingestor:
    """Fills one collection for one tenant. `on_document` is called with each id that is dealt with.

    `window_chunks` are embedded and acknowledged together.
    Raises Conflict when the collection was made by another embedder, ConfigError when chunks would not fit it.
    """

    def __init__(
        self,
        collections: CollectionsClient,
        embedder: TextEmbedder,
        config: RetrievalConfig,
        tenant: str = DEFAULT_TENANT,
        on_document: Callable[[str], None] = lambda _: None,
        window_chunks: int = WINDOW_CHUNKS,
    ) -> None:
        self._collections = collections
        self._embedder = embedder
        self._config = config
        self._tenant = tenant
        self._on_document = on_document
        self._window_chunks = window_chunks
        self._chunker = chunker_for(embedder, config)
        collections.ensure(
            CollectionSpec(
                config.collection, embedder.dimension, embedder.name, embedder.fingerprint, config.distance
            )
        )

    def add(
        self, documents: Iterable[Document], optimize: bool = True, leaving: Collection[str] = ()
    ) -> IngestReport:
        """Index documents; those whose content is indexed already, cut alike, cost a comparison.

        `optimize` False leaves the search index to be built when more has been written. `leaving` are ids that will
        be removed: what has their content is no copy.
        Everything written is durable and searchable window by window. Raises StoreUnavailable when the store
        fails for good; the same call later goes on where it ended. Raises DataError for metadata that the collection
        cannot hold, and for a chunk that the embedder fails on, and Conflict when it is migrated meanwhile.
        """
        report = IngestReport()
        start = time.perf_counter()
        windows = _windows(self._pending(documents, report, leaving), self._window_chunks)
        for window, vectors in _computed_ahead(self._embed, windows):
            self._write(window, vectors)
            report.num_chunks += len(window)
            for item in window:
                if item.chunk.position == 0:
                    self._on_document(item.document.id)
        if report.num_chunks and optimize:
            self._collections.optimize(self._config.collection)
        report.seconds = time.perf_counter() - start
        return report

    def add_paths(
        self, roots: Sequence[str], metadata: Mapping[str, MetadataValue] | None = None
    ) -> IngestReport:
        """Make the collection agree with files and folders: what changed is indexed, what vanished removed.

        A file that cannot be read is skipped with its reason, and an earlier version of it removed. Raises
        NotFound for a root without files.
        """
        found = [source for root in roots for source in find_sources(root)]
        sources = {source.id: source for source in found}
        listed = {source.root for source in found}
        known = [
            id_
            for id_ in self._collections.document_ids(self._config.collection, self._tenant)
            if is_below(id_, listed)
        ]
        leaving = {id_ for id_ in known if id_ not in sources}
        unreadable: list[Skipped] = []
        documents = _readable(sources.values(), metadata or {}, unreadable, self._on_document)
        report = self.add(documents, leaving=leaving)
        report.skipped += unreadable
        kept = sources.keys() - {skipped.uri for skipped in unreadable}
        gone = [id_ for id_ in known if id_ not in kept]
        if gone:
            self._collections.delete_documents(self._config.collection, gone, self._tenant)
        report.num_removed = len(gone)
        return report

    def _known(self) -> dict[str, DocumentRecord]:
        records = self._collections.documents(self._config.collection, self._tenant)
        return {record.document_id: record for record in records}

    def _indexed(self, document_id: str) -> DocumentRecord | None:
        return self._collections.document(self._config.collection, document_id, self._tenant)

    def _pending(
        self, documents: Iterable[Document], report: IngestReport, leaving: Collection[str]
    ) -> Iterator[_Pending]:
        """The chunks that have to be written, position 0 last of each document."""
        # Only deduplication has to know all of them; one by one they need not be counted before.
        known = self._known() if self._config.deduplicate else {}
        owners = _Owners({id_: record.content_sha256 for id_, record in known.items() if id_ not in leaving})
        fields = self._collections.describe(self._config.collection).fields
        for document, sha256 in self._in_order(documents, owners):
            # Before anything is embedded, or taken from what is indexed of the document.
            fields = joined_fields(fields, document.id, document.metadata)
            report.warnings += [f"{document.uri}: {warning}" for warning in document.content.warnings]
            before = known.get(document.id) if self._config.deduplicate else self._indexed(document.id)
            if before is not None and before.content_sha256 == sha256:
                report.num_unchanged += 1
                self._on_document(document.id)
                continue
            owner = owners.claim(document.id, sha256)
            if self._config.deduplicate and owner != document.id:
                # What it held before it became a copy, or a killed run left of it.
                self._collections.delete_documents(self._config.collection, [document.id], self._tenant)
                report.skipped.append(Skipped(document.uri, f"same content as {owner}"))
                self._on_document(document.id)
                continue
            chunks = self._chunker.cut(document)
            if before is not None:
                self._collections.mark_unfinished(self._config.collection, document.id, self._tenant)
            if before is None:
                report.num_added += 1
            else:
                report.num_updated += 1
            for chunk in (*chunks[1:], chunks[0]):
                yield _Pending(document, sha256, len(chunks), chunk)

    def _in_order(self, documents: Iterable[Document], owners: _Owners) -> Iterator[tuple[Document, str]]:
        """Documents and their content hashes; last those that would be copies of one that is still to come.

        That one may hold something else by now: two files that swapped their names are no copies.
        """
        waiting: list[tuple[Document, str]] = []
        for document in documents:
            sha256 = self._chunker.sha256(document)
            if owners.may_give_up(document.id, sha256):
                waiting.append((document, sha256))
            else:
                yield document, sha256
        yield from waiting

    def _embed(self, window: Sequence[_Pending]) -> np.ndarray:
        try:
            return self._embedder.embed_documents([item.chunk.indexed_text for item in window])
        except InvalidInput as exc:
            raise _named(exc, window) from exc

    def _write(self, window: Sequence[_Pending], vectors: np.ndarray) -> None:
        points = [
            make_point(item.document, item.sha256, item.chunk, item.num_chunks, vector, self._tenant)
            for item, vector in zip(window, vectors, strict=True)
        ]
        # In one call for all of them: where the store is another process, each is a journey.
        finished = {item.document.id: item.num_chunks for item in window if item.chunk.position == 0}
        self._collections.delete_chunks_from(self._config.collection, finished, self._tenant)
        self._collections.upsert(self._config.collection, points, self._embedder.fingerprint)


def chunker_for(embedder: TextEmbedder, config: RetrievalConfig) -> Chunker:
    """What cuts documents for this embedder. Raises ConfigError when chunks would not fit it."""
    return Chunker(
        embedder.tokenizer,
        max_tokens=embedder.max_tokens,
        chunk_tokens=config.chunk_tokens,
        chunk_overlap_tokens=config.chunk_overlap_tokens,
        context_tokens=config.context_tokens,
        special_tokens=embedder.special_tokens,
    )


def cut_paths(roots: Sequence[str], chunker: Chunker, skipped: list[Skipped]) -> Iterator[Chunk]:
    """The chunks of files and folders, without indexing them. Raises NotFound for a root without files."""
    sources = {source.id: source for root in roots for source in find_sources(root)}
    for document in _readable(sources.values(), {}, skipped, lambda _: None):
        yield from chunker.cut(document)


def _windows(items: Iterator[_Pending], window_chunks: int) -> Iterator[list[_Pending]]:
    while window := list(islice(items, window_chunks)):
        yield window


def _computed_ahead(compute: Callable[[T], R], items: Iterable[T]) -> Iterator[tuple[T, R]]:
    """Each item with what `compute` makes of it in a thread, while the caller makes the next and uses the last."""
    thread = ThreadPoolExecutor(max_workers=1)
    started: deque[tuple[T, Future[R]]] = deque()
    try:
        for item in items:
            # With the trace and the deadline of the caller.
            started.append((item, thread.submit(copy_context().run, compute, item)))
            if len(started) > 1:
                done, result = started.popleft()
                yield done, result.result()
        for done, result in started:
            yield done, result.result()
    finally:
        thread.shutdown(cancel_futures=True)


def _readable(
    sources: Iterable[Source],
    metadata: Mapping[str, MetadataValue],
    unreadable: list[Skipped],
    on_document: Callable[[str], None],
) -> Iterator[Document]:
    for source in sources:
        # Any bytes name a file on Linux, but no store, tokenizer or JSON takes those that are no characters.
        shown = source.id.encode(errors="backslashreplace").decode()
        try:
            if shown != source.id:
                raise DataError(f"{shown}: its name is not UTF-8; rename it")
            yield read_document(source.read(), source.id, source.id, metadata)
        except (DataError, Unprocessable) as exc:
            # The message names the file, for those who see nothing else of it.
            unreadable.append(Skipped(shown, exc.message.removeprefix(f"{shown}: ")))
            on_document(source.id)
        except OSError as exc:
            unreadable.append(Skipped(shown, exc.strerror or str(exc)))
            on_document(source.id)


def _named(error: InvalidInput, window: Sequence[_Pending]) -> HamletError:
    """The embedder knows a text by its index in the call; people know it by document and chunk."""
    index = text_index(error)
    if index is None:
        return error
    item = window[index]
    return DataError(
        f"chunk {item.chunk.position} of document {item.document.id!r}: {error.message}", "document"
    )
