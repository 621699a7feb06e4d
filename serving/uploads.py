"""One file of a multipart body, written to disk as it arrives: memory stays flat, whatever its size."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import BinaryIO

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request

from cluster.blobs import staging_path
from cluster.errors import InvalidInput, TooLarge
from cluster.files import suffix_of
from cluster.storage import reaching, storage_uri

# What is gathered before it is written, in a thread: small writes would cost more than the disk.
WRITE_BYTES = 1024 * 1024
MAX_FIELD_BYTES = 64 * 1024
MAX_FILENAME = 255
MAX_DIGITS = 18


@dataclass(frozen=True)
class Upload:
    """A file that has arrived, not yet kept, and the fields that came with it."""

    path: Path
    filename: str
    fields: dict[str, str]


@asynccontextmanager
async def received(request: Request, max_bytes: int) -> AsyncIterator[Upload]:
    """The upload of a request, removed at the end unless it was moved away.

    Raises InvalidInput for a body that is no multipart form with one file, TooLarge above `max_bytes`.
    """
    with _faults_told():
        form = _Form(_boundary(request), max_bytes)
    length = whole_number(request.headers.get("content-length", ""))
    # The few fields beside the file are not worth a second limit.
    if length is not None and length > max_bytes + MAX_FIELD_BYTES:
        raise form.too_large()
    try:
        async for chunk in request.stream():
            form.feed(chunk)
            if len(form.unwritten) >= WRITE_BYTES:
                await asyncio.to_thread(form.write)
        await asyncio.to_thread(form.finish)
        yield form.upload()
    finally:
        await asyncio.to_thread(form.discard)


def whole_number(text: str) -> int | None:
    """A whole number of up to 18 digits; None for anything else, such as the thousands that Python refuses to read.

    >>> whole_number("3600"), whole_number("-1"), whole_number("9" * 5000)
    (3600, None, None)
    """
    return int(text) if text.isdecimal() and len(text) <= MAX_DIGITS else None


@contextmanager
def _faults_told() -> Iterator[None]:
    try:
        yield
    except FormParserError as exc:
        raise InvalidInput(f"the body is no multipart form: {exc}", "file") from exc


def _boundary(request: Request) -> bytes:
    kind, options = parse_options_header(request.headers.get("content-type"))
    if kind != b"multipart/form-data" or b"boundary" not in options:
        raise InvalidInput("send the file as multipart/form-data, with the fields file and purpose", "file")
    return options[b"boundary"]


class _Form:
    """The body as the parser tells it, part by part."""

    def __init__(self, boundary: bytes, max_bytes: int) -> None:
        self.unwritten = bytearray()
        self._max_bytes = max_bytes
        self._filename: str | None = None
        self._fields: dict[str, str] = {}
        self._path: Path | None = None
        self._file: BinaryIO | None = None
        self._num_bytes = 0
        self._headers: dict[bytes, bytes] = {}
        self._name = b""
        self._header = (bytearray(), bytearray())
        self._value: bytearray | None = None  # of the field whose part this is; None in the file's
        self._num_field_bytes = 0
        self._is_complete = False
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._headers.clear,
                "on_header_field": lambda data, start, end: self._header[0].extend(data[start:end]),
                "on_header_value": lambda data, start, end: self._header[1].extend(data[start:end]),
                "on_header_end": self._header_end,
                "on_headers_finished": self._part_begin,
                "on_part_data": self._part_data,
                "on_part_end": self._part_end,
                "on_end": self._end,
            },
        )

    def feed(self, chunk: bytes) -> None:
        with _faults_told():
            self._parser.write(chunk)

    def write(self) -> None:
        """Write what has come; opens the file with the first of it. Raises Unavailable."""
        with reaching(storage_uri(), "write"):
            if self._file is None:
                self._path = staging_path(suffix_of(self._filename or ""))
                self._file = self._path.open("wb")
            self._file.write(self.unwritten)
        self.unwritten.clear()

    def finish(self) -> None:
        if not self._is_complete:
            raise InvalidInput("the upload broke off before its end; send it again", "file")
        if self._filename is None:
            raise InvalidInput("missing required parameter 'file'", "file", "missing_required_parameter")
        self.write()
        assert self._file is not None
        with reaching(storage_uri(), "write"):
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()

    def upload(self) -> Upload:
        assert self._path is not None
        return Upload(self._path, self._filename or "", self._fields)

    def discard(self) -> None:
        if self._path is not None:
            self._path.unlink(missing_ok=True)
        if self._file is not None:
            with suppress(OSError):  # on a full disk, where what is still unwritten cannot be written either
                self._file.close()

    def too_large(self) -> TooLarge:
        return TooLarge(
            f"the file is larger than {self._max_bytes / 1024**2:g} MiB, the most that is taken; split it",
            "file",
        )

    def _header_end(self) -> None:
        name, value = self._header
        self._headers[bytes(name).lower()] = bytes(value)
        self._header = (bytearray(), bytearray())

    def _part_begin(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition"))
        self._name = options.get(b"name", b"")
        self._value = bytearray() if self._name != b"file" else None
        if self._value is not None:
            self._count_field_bytes(len(self._name))
        else:
            if self._filename is not None:
                raise InvalidInput("send one file in a request", "file")
            self._filename = _plain_name(options.get(b"filename", b""))

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        if self._value is not None:
            self._count_field_bytes(end - start)
            self._value += data[start:end]
            return
        self.unwritten += data[start:end]
        self._num_bytes += end - start
        if self._num_bytes > self._max_bytes:
            raise self.too_large()

    def _count_field_bytes(self, num_bytes: int) -> None:
        """Of all fields beside the file, names and values: these are kept in memory."""
        self._num_field_bytes += num_bytes
        if self._num_field_bytes > MAX_FIELD_BYTES:
            name = _text(self._name[:MAX_FILENAME])
            raise InvalidInput(f"with {name!r} the fields beside the file are too long", name)

    def _part_end(self) -> None:
        if self._value is not None:
            self._fields[_text(self._name)] = _text(bytes(self._value))

    def _end(self) -> None:
        self._is_complete = True


def _plain_name(raw: bytes) -> str:
    """The last part of a file name, without folders: it is shown, never used as a path.

    >>> _plain_name(b"../rows.jsonl"), _plain_name(rb"C:\\data\\rows.jsonl"), _plain_name(b"")
    ('rows.jsonl', 'rows.jsonl', 'upload')
    """
    name = PurePath(_text(raw).replace("\\", "/")).name.strip()
    return "".join(character for character in name if character.isprintable())[:MAX_FILENAME] or "upload"


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "replace")
