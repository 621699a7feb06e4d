"""The files that a batch ends with: a line for each row, in OpenAI's form, in the order of the input.

The output file has the rows that were answered with 200, the error file all others.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any

import orjson

from cluster.batch_queue import BatchQueue
from cluster.batch_records import Batch, BatchStatus
from cluster.blobs import open_blob, staging_path
from cluster.errors import NotFound
from cluster.files import File, Files, discard
from serving.batch_input import Row, rows

OUTPUT_PURPOSE = "batch_output"

UNANSWERED = {
    BatchStatus.EXPIRED: (
        "batch_expired",
        "the batch's completion window passed before this row was answered",
    ),
    BatchStatus.CANCELLED: ("batch_cancelled", "the batch was cancelled before this row was answered"),
}


def answered_line(row: Row, status: int, request_id: str, body: Any) -> str:
    """The line of a row that has its answer, or its refusal."""
    response = {"status_code": status, "request_id": request_id, "body": body}
    return _line(row, {"response": response, "error": None})


def batch_files(
    batch: Batch, end: BatchStatus, queue: BatchQueue, files: Files
) -> tuple[File | None, File | None]:
    """Keep the output and error file of a batch that is to end so, each None where it would be empty."""
    output = _kept(batch, "output", queue.results(batch.id, is_failed=False), files)
    failed = queue.results(batch.id, is_failed=True)
    try:
        return output, _kept(batch, "error", chain(failed, _unanswered(batch, end, queue)), files)
    except BaseException:
        if output is not None:
            discard(output)  # it is made anew with the next try
        raise


def _unanswered(batch: Batch, end: BatchStatus, queue: BatchQueue) -> Iterator[str]:
    """Lines for the rows that nobody got to; none where the input was not found good, or is gone."""
    if end not in UNANSWERED or batch.num_rows is None:
        return
    code, message = UNANSWERED[end]
    answered = queue.answered(batch.id)
    try:
        stream = open_blob(batch.input_uri)
    except NotFound:
        return
    with stream:
        for row in rows(stream):
            if row.line not in answered:
                yield _line(row, {"response": None, "error": {"code": code, "message": message}})


def _line(row: Row, outcome: dict[str, Any]) -> str:
    line = {"id": f"batch_req_{secrets.token_hex(12)}", "custom_id": row.custom_id} | outcome
    return orjson.dumps(line).decode()


def _kept(batch: Batch, kind: str, lines: Iterable[str], files: Files) -> File | None:
    path = staging_path(".jsonl")
    try:
        with path.open("w", encoding="utf-8", newline="\n") as file:
            file.writelines(f"{line}\n" for line in lines)
        if not path.stat().st_size:
            return None
        expires_at = time.time() + batch.output_expires_after_s
        filename = f"{batch.id}_{kind}.jsonl"
        return files.stored(batch.tenant, filename, OUTPUT_PURPOSE, path, expires_at=expires_at)
    finally:
        path.unlink(missing_ok=True)
