"""Plain text: bytes to clean characters. Every other reader of a text format starts here."""

from __future__ import annotations

import re

from charset_normalizer import from_bytes

from cluster.errors import DataError
from retrieval.documents import Content, Section

LONE_SURROGATE = re.compile("[\ud800-\udfff]")
# Control characters that no text format gives a meaning; tab and line feed stay, form feed ends a page.
CONTROL = re.compile("[\x00-\x08\x0b\x0e-\x1f\x7f]")

SNIFFED_BYTES = 8192


def read_text(data: bytes) -> Content:
    """The whole file as one section."""
    text = clean(decode(data))
    return Content(text, (Section(0, len(text)),))


def decode(data: bytes) -> str:
    """Characters from bytes: UTF-8 where it is valid, else the encoding that fits the bytes best.

    A byte-order mark at the start is dropped. Raises DataError for bytes that are not text.
    """
    encoding = _encoding_by_mark(data)
    # UTF-16 has these too, but with its mark; without one they mean that this is no text.
    if encoding == "utf-8-sig" and b"\x00" in data[:SNIFFED_BYTES]:
        raise DataError("the file is binary, not text; convert it to a format that can be read")
    try:
        return data.decode(encoding)
    except UnicodeDecodeError:
        pass
    best = from_bytes(data).best()
    if best is None:
        raise DataError("the encoding of the file cannot be told; save it as UTF-8")
    return str(best)


def _encoding_by_mark(data: bytes) -> str:
    # Four-byte marks first: UTF-32's begins with UTF-16's.
    if data.startswith((b"\xff\xfe\x00\x00", b"\x00\x00\xfe\xff")):
        return "utf-32"
    return "utf-16" if data.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"


def clean(text: str) -> str:
    """Text that can be hashed, stored and sent as JSON.

    Line ends become line feeds. Halves of a surrogate pair that belong together are joined (PDF extraction
    yields them apart); a lone half is dropped, and so are control characters.

    >>> clean("a\\r\\nb\\x00")
    'a\\nb'
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if LONE_SURROGATE.search(text):
        text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "ignore")
        text = LONE_SURROGATE.sub("", text)
    return CONTROL.sub("", text)
