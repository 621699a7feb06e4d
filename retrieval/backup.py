"""A collection as one Parquet file: for keeping, and for moving between stores.

The file holds ids, vectors and payloads; words are weighed afresh on the way back. A backup of the embedded
engine can be restored on a Qdrant server, and the other way round. A document that was written while it was backed up
is restored as one that is not finished, which its next ingestion writes anew.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cluster.errors import Conflict, DataError, HamletError, InvalidInput, NotFound
from cluster.storage import GIVEN_ADDRESS, is_there, reaching
from retrieval.client import CollectionsClient
from retrieval.config import retrieval_config
from retrieval.migrate import pages
from retrieval.points import remade_point
from retrieval.store import CollectionSpec, Scored

FORMAT = "hamlet-collection-1"
SUFFIX = ".parquet"
# Of the name that a collection has until it is complete.
RESTORING = "-restoring"


def back_up(collections: CollectionsClient, collection: str, target: str) -> int:
    """Write a collection to a path or fsspec URI; returns how many chunks. The file appears when complete.

    Raises InvalidInput for a folder, and Unavailable for a file that cannot be made.
    """
    spec = collections.describe(collection).spec
    schema = pa.schema(
        [("id", pa.string()), ("dense", pa.list_(pa.float32(), spec.dimension)), ("payload", pa.string())],
        metadata={"format": FORMAT, "spec": json.dumps(asdict(spec))},
    )
    num_chunks = 0
    with reaching(target, "write", GIVEN_ADDRESS) as (filesystem, path):
        if target.endswith("/") or filesystem.isdir(path):
            file_name = f"{target.rstrip('/')}/{collection}{SUFFIX}"
            raise InvalidInput(f"{target} is a folder; name the file, such as {file_name}", "target")
        with (
            _appearing_whole(filesystem, path) as draft,
            filesystem.open(draft, "wb") as file,
            pq.ParquetWriter(file, schema, compression="zstd", write_page_checksum=True) as writer,
        ):
            for page in pages(collections, collection):
                writer.write_table(pa.table(_columns(page), schema=schema))
                num_chunks += len(page)
    return num_chunks


def restore(collections: CollectionsClient, source: str, collection: str | None = None) -> int:
    """Make a collection from a backup, under its own or another name; returns how many chunks.

    It appears when complete. Raises Conflict when the name is taken, ConfigError when it cannot be one,
    DataError for a file that is no backup, or damaged.
    """
    with _opened(source) as file:
        try:
            parquet = pq.ParquetFile(file, page_checksum_verification=True)
        except pa.ArrowInvalid as exc:
            raise DataError(f"{source} is not a backup: {exc}", "path") from exc
        if not _is_of_a_collection(parquet.schema_arrow):
            raise DataError(f"{source} is not a backup of a collection", "path")
        backed_up = CollectionSpec.from_json(json.loads(parquet.schema_arrow.metadata[b"spec"]))
        name = retrieval_config(collection=collection or backed_up.name).collection
        if name in _restored(collections):
            raise Conflict(f"collection {name!r} exists already; drop it or restore under another name")
        spec = replace(backed_up, name=f"{name}{RESTORING}")
        for leftover in (name, spec.name):
            with suppress(NotFound):
                collections.drop(leftover)
        collections.ensure(spec)
        try:
            num_chunks = _fill(collections, spec, parquet)
        except HamletError:
            collections.drop(spec.name)
            raise
    collections.optimize(spec.name)
    collections.ensure(replace(spec, name=name))
    collections.swap(name, spec.name)
    collections.drop(spec.name)
    return num_chunks


def back_up_all(collections: CollectionsClient, folder: str, prune: bool = False) -> dict[str, int]:
    """Write every collection to `folder`/<name>.parquet; returns how many chunks each has.

    `prune` then removes the folder's backups of collections that are gone, which a restore would bring back.
    """
    with reaching(folder, "write", GIVEN_ADDRESS) as (filesystem, path):
        filesystem.makedirs(path, exist_ok=True)
    written = {}
    for name in collections.collection_names():
        with suppress(NotFound):  # dropped since it was listed
            written[name] = back_up(collections, name, f"{folder.rstrip('/')}/{name}{SUFFIX}")
    if prune:
        with reaching(folder, "write", GIVEN_ADDRESS) as (filesystem, path):
            for file in filesystem.glob(f"{path}/*{SUFFIX}"):
                if _name_of(file) not in written and _is_backup(filesystem, file):
                    filesystem.rm_file(file)
    return written


def restore_all(collections: CollectionsClient, folder: str) -> dict[str, int]:
    """Make every collection of `folder` that is not there yet; returns how many chunks each has.

    A collection appears when complete, so that a restore that was cut off is simply started again. Raises NotFound
    for a folder without backups.
    """
    with reaching(folder, "list", GIVEN_ADDRESS) as (filesystem, path):
        files = sorted(filesystem.glob(f"{path}/*{SUFFIX}")) if is_there(filesystem, path) else []
    there = _restored(collections)
    if not files:
        raise NotFound(f"no backups (*{SUFFIX}) in {folder}; name the folder that backup --all wrote", "path")
    restored = {}
    for file in files:
        name = _name_of(file)
        if name not in there:
            restored[name] = restore(collections, f"{folder.rstrip('/')}/{name}{SUFFIX}")
    return restored


def _name_of(file: str) -> str:
    return file.rsplit("/", 1)[-1].removesuffix(SUFFIX)


def _is_backup(filesystem: Any, path: str) -> bool:
    with filesystem.open(path, "rb") as file:
        try:
            return _is_of_a_collection(pq.read_schema(file))
        except pa.ArrowInvalid:
            return False


def _is_of_a_collection(schema: pa.Schema) -> bool:
    return (schema.metadata or {}).get(b"format") == FORMAT.encode()


@contextmanager
def _appearing_whole(filesystem: Any, path: str) -> Iterator[str]:
    """Where to write a file that is to be at `path` when the block ends, and nowhere when it fails."""
    draft = f"{path}.part"
    try:
        yield draft
    except BaseException:
        with suppress(OSError):
            filesystem.rm_file(draft)
        raise
    filesystem.mv(draft, path)


@contextmanager
def _opened(source: str) -> Iterator[Any]:
    """The file at a path or fsspec URI, to read from. Raises NotFound when there is none."""
    with reaching(source, "read", GIVEN_ADDRESS) as (filesystem, path):
        if not is_there(filesystem, path) or filesystem.isdir(path):
            raise NotFound(
                f"no file at {source}; give one that backup wrote, or its folder with --all", "path"
            )
        with filesystem.open(path, "rb") as file:
            yield file


def _columns(page: list[Scored]) -> dict[str, list[object]]:
    return {
        "id": [chunk.id for chunk in page],
        "dense": [chunk.vector for chunk in page],
        "payload": [json.dumps(dict(chunk.payload)) for chunk in page],
    }


def _fill(collections: CollectionsClient, spec: CollectionSpec, parquet: pq.ParquetFile) -> int:
    num_chunks = 0
    hashes: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)  # of the chunks of each document
    whole: dict[tuple[str, str], Counter[str]] = {}
    for stored in _stored(parquet):
        points = [remade_point(chunk, chunk.vector) for chunk in stored if chunk.vector is not None]
        collections.upsert(spec.name, points, spec.fingerprint)
        num_chunks += len(points)
        for payload in (chunk.payload for chunk in stored):
            document = payload["tenant"], payload["document_id"]
            hashes[document][payload["content_sha256"]] += 1
            if payload["position"] == 0:
                whole[document] = Counter({payload["content_sha256"]: payload["num_chunks"]})
    for (tenant, document_id), expected in whole.items():
        if hashes[tenant, document_id] != expected:
            # It was written during the backup, which has some of its chunks from before and some from after.
            collections.mark_unfinished(spec.name, document_id, tenant)
    return num_chunks


def _stored(parquet: pq.ParquetFile) -> Iterator[list[Scored]]:
    try:
        for batch in parquet.iter_batches(batch_size=256):
            yield [
                Scored(row["id"], 0.0, json.loads(row["payload"]), np.asarray(row["dense"], dtype=np.float32))
                for row in batch.to_pylist()
            ]
    except OSError as exc:
        if exc.errno is not None:
            raise  # the file could not be reached; what pyarrow finds wrong in it has no number
        raise DataError(f"the backup is damaged ({exc}); restore another copy of it", "path") from exc


def _restored(collections: CollectionsClient) -> set[str]:
    """Names of the collections but those that a restore left empty, cut off just before the change-over."""
    num_points = {info.spec.name: info.num_points for info in collections.list_collections()}
    return {name for name, count in num_points.items() if count or f"{name}{RESTORING}" not in num_points}
