"""PDF: the text layer, page by page."""

from __future__ import annotations

import io
import unicodedata
from typing import TYPE_CHECKING, Any

from cluster.errors import DataError, Unprocessable
from retrieval.documents import Content
from retrieval.readers.parsing import parsing
from retrieval.readers.parts import Parts
from retrieval.readers.text import clean

if TYPE_CHECKING:
    from pypdf import PageObject

# Letters that a font joins are words only when they are apart again: `ﬁnance`.
LIGATURES = {code: unicodedata.normalize("NFKC", chr(code)) for code in range(0xFB00, 0xFB07)}


def read_pdf(data: bytes) -> Content:
    """One section for each page with text.

    Raises DataError for a damaged file, Unprocessable for a protected one and for one without text.
    """
    from pypdf import PdfReader  # here, as the libraries of office.py
    from pypdf.errors import DependencyError

    with parsing("PDF"):
        try:
            reader = PdfReader(io.BytesIO(data))
            if reader.is_encrypted and not reader.decrypt(""):
                raise Unprocessable(
                    "the PDF is protected by a password; save a copy without one", "file", "protected_file"
                )
            pages = list(reader.pages)
            tree: Any = reader.root_object["/Pages"]
            count = tree.get("/Count")
            title = " ".join(clean(str(reader.metadata.title or "")).split()) if reader.metadata else ""
        except DependencyError as exc:
            raise Unprocessable(
                f"the PDF's encryption cannot be read: {exc}", "file", "protected_file"
            ) from exc
    texts, warnings = _texts(pages)
    if isinstance(count, int) and count > len(pages):
        # The library leaves out what it does not find, and nothing says where it was.
        warnings.append(
            f"{count - len(pages)} of {count} pages are lost; those behind them are numbered too low"
        )
    if not any(texts):
        raise Unprocessable(
            f"no text in {len(pages)} pages; it seems to be scanned: run OCR on it first", "file", "no_text"
        )
    parts = Parts()
    for number, text in enumerate(texts, start=1):
        parts.add(text, page=number)
    return parts.content(title or None, tuple(warnings))


def _texts(pages: list[PageObject]) -> tuple[list[str], list[str]]:
    """The text of each page, empty where there is none, and what went wrong."""
    texts, warnings = [], []
    for number, page in enumerate(pages, start=1):
        try:
            # One page may be damaged, or need what is not installed, and the others be sound.
            with parsing("PDF"):
                text = clean(page.extract_text()).translate(LIGATURES).strip()
        except (DataError, RecursionError) as exc:
            text = ""
            warnings.append(f"page {number} cannot be read: {exc.__cause__ or exc}")
        else:
            if not text:
                warnings.append(f"page {number} has no text; it may be scanned")
        texts.append(text)
    return texts, warnings
