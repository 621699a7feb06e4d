"""Plain text: bytes to clean characters. Every other reader of a text format starts here."""

from __future__ import annotations

import re
from contextlib import suppress

from charset_normalizer import from_bytes

from cluster.errors import DataError
from retrieval.documents import Content, Section

LONE_SURROGATE = re.compile("[\ud800-\udfff]")
# Control characters that no text format gives a meaning; tab and line feed stay, form feed ends a page.
CONTROL = re.compile("[\x00-\x08\x0e-\x1f\x7f]")

SNIFFED_BYTES = 8192
UTF_8 = "utf-8-sig"  # which drops a byte-order mark

# What texts that are not Unicode are in. Encodings of old terminals and printers often seem to fit a text of Western
# Europe better than its own, and are tried where none of these fits.
USUAL_ENCODINGS = [
    *(f"cp{number}" for number in range(1250, 1258)),  # of Windows
    *("koi8_r", "cp932", "euc_jp", "gb18030", "big5", "cp949"),
]
WESTERN = "cp1252"
# Guesses no further apart than this are a tie.
TIE = 0.03
# Letters of Central Europe by what the Western encoding has in their places: Polish and Romanian ones are no letters
# there, and no Western language has both of the Hungarian ones.
SIGN_IN_A_WORD = re.compile(r"[^\W\d_][¹³º¿£¥¼¾][^\W\d_]")
HUNGARIAN = {"õ", "û"}


def read_text(data: bytes) -> Content:
    """The whole file as one section."""
    text = clean(decode(data))
    return Content(text, (Section(0, len(text)),))


def decode(data: bytes, declared: str | None = None) -> str:
    """Characters from bytes: by their byte-order mark, which is dropped, or else as is declared, or UTF-8.

    Where the bytes are none of these, the encoding that fits them best; a few damaged ones become U+FFFD. Raises
    DataError for bytes that are not text.
    """
    marked = _encoding_by_mark(data)
    # UTF-16 has these too, but with its mark; without one they mean that this is no text.
    if marked in (None, UTF_8) and declared is None and b"\x00" in data[:SNIFFED_BYTES]:
        raise DataError("the file is binary, not text; convert it to a format that can be read")
    for encoding in (marked or declared or UTF_8, UTF_8):
        with suppress(LookupError, UnicodeError):
            return data.decode(encoding)
    for encoding in (declared or UTF_8, UTF_8):
        with suppress(LookupError, UnicodeError):
            text = data.decode(encoding, errors="replace")
            if _is_mostly_valid(text):
                return text
    return _guessed(data)


def _is_mostly_valid(replaced: str) -> bool:
    """Whether more of what is not ASCII could be decoded than not.

    In UTF-8 it hardly ever can by chance: of Chinese in another encoding a third, of other languages less.
    """
    num_damaged = replaced.count("\ufffd")
    num_others = len(replaced) - len(replaced.encode("ascii", errors="ignore"))
    return num_damaged < num_others - num_damaged


def _guessed(data: bytes) -> str:
    """Characters in the encoding that fits best; the Western one where it fits as well as any, as most texts are in it.

    Texts of Western Europe fit those of Central Europe too: there `år` is `ĺr`.
    """
    guesses = from_bytes(data, cp_isolation=USUAL_ENCODINGS) or from_bytes(data)
    best = guesses.best()
    if best is None:
        raise DataError("the encoding of the file cannot be told; save it as UTF-8")
    for guess in guesses:
        is_tie = guess.chaos <= best.chaos + TIE and guess.coherence >= best.coherence - TIE
        if is_tie and WESTERN in guess.could_be_from_charset and _may_be_western(str(guess)):
            return str(guess)
    return str(best)


def _may_be_western(text: str) -> bool:
    return not SIGN_IN_A_WORD.search(text) and not set(text.lower()) >= HUNGARIAN


def _encoding_by_mark(data: bytes) -> str | None:
    # Four-byte marks first: UTF-32's begins with UTF-16's.
    if data.startswith((b"\xff\xfe\x00\x00", b"\x00\x00\xfe\xff")):
        return "utf-32"
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "utf-16"
    return UTF_8 if data.startswith(b"\xef\xbb\xbf") else None


def clean(text: str) -> str:
    """Text that can be hashed, stored and sent as JSON.

    Line ends become line feeds, and so do vertical tabs (PowerPoint's line breaks). Halves of a surrogate pair that
    belong together are joined (PDF extraction yields them apart); a lone half and control characters are dropped.

    >>> clean("a\\r\\nb\\x00")
    'a\\nb'
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n").replace("\v", "\n")
    if LONE_SURROGATE.search(text):
        text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "ignore")
        text = LONE_SURROGATE.sub("", text)
    return CONTROL.sub("", text)
